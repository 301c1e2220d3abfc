"""Weighted sums and dot products that read each operand once: those of the CPU, and of Triton.

Triton's run in its interpreter where there is no GPU: the same program, instruction by
instruction, on tensors in the machine's memory.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest
import torch

from runtime import kernels
from runtime.kernels import cpu
from runtime.weighted_sum import add_up, weighted_sum

SHAPE = (2, 16, 47, 47)  # no multiple of a tile or a chunk

needs_a_compiler = pytest.mark.skipif(cpu.library() is None, reason="no C compiler")
layouts = pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
types = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
batches = pytest.mark.parametrize("batch", [1, 2])


def operands(dtype, memory_format, batch, device="cpu"):
    generator = torch.Generator().manual_seed(0)
    values = [
        torch.randn(SHAPE, generator=generator).to(device, dtype, memory_format=memory_format)
        for _ in range(6)
    ]
    return values, torch.rand(batch, 6, generator=generator).to(device)


def assert_exact(values, weights, total, dots, again, same_dots, *, rounding=2**-8):
    """`rounding` is that of bfloat16."""
    dtype = values[0].dtype
    tolerance = {} if dtype == torch.float32 else {"rtol": rounding, "atol": rounding}
    exact = sum(
        value.double() * weights.double()[:, i].reshape(-1, 1, 1, 1)
        for i, value in enumerate(values)
    )
    products = [(value.double() * values[0].double()).sum((1, 2, 3)) for value in values]
    for ours in (total, again):
        torch.testing.assert_close(ours, exact.to(dtype), **tolerance)
        assert ours.stride() == values[0].stride()
    for ours in (dots, same_dots):
        torch.testing.assert_close(ours.double(), torch.stack(products, 1), rtol=1e-4, atol=1e-2)


def assert_exact_rows(values, total_of, *, rounding=2**-8):
    """Sums of other samples than one's own, some of them left out."""
    rows = torch.tensor([[1, 0, -1], [-1, -1, -1], [0, 0, 1]])
    weights = torch.rand(3, 3, generator=torch.Generator().manual_seed(2))
    total = total_of(values[:3], weights, rows)
    tolerance = {} if total.dtype == torch.float32 else {"rtol": rounding, "atol": rounding}
    for sample, (row, weight) in enumerate(zip(rows.tolist(), weights, strict=True)):
        parts = [
            value[index].double() * factor
            for value, index, factor in zip(values, row, weight.double(), strict=False)
            if index >= 0
        ]
        expected = sum(parts, torch.zeros(SHAPE[1:], dtype=torch.float64))
        torch.testing.assert_close(total[sample].cpu(), expected.cpu().to(total.dtype), **tolerance)


def by_rows(values, weights, rows):
    device = values[0].device
    total = torch.empty_like(torch.cat((values[0], values[0][:1])))
    kernels.weighted_sum(values, weights.to(device), total, rows.to(device))
    return total


@needs_a_compiler
@types
@layouts
def test_rows_on_a_cpu(dtype, memory_format):
    values, _ = operands(dtype, memory_format, 1)
    assert_exact_rows(values, by_rows)


@needs_a_compiler
@types
@layouts
@batches
def test_on_a_cpu(dtype, memory_format, batch):
    values, weights = operands(dtype, memory_format, batch)
    assert kernels.fits(values)
    total = add_up(values, weights)
    dots = kernels.dot_products(values, values[0])
    assert_exact(
        values, weights, total, dots, *kernels.sum_and_dot_products(values, weights, values[0])
    )


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="no Triton")
def test_in_tritons_interpreter(repository):
    """In a process of its own: what Triton is, is decided when it is first imported."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(repository)}
    subprocess.run([sys.executable, __file__], env=environment, check=True)


def check_triton():
    from runtime.kernels import cuda

    for dtype in (torch.float32, torch.bfloat16):
        for batch in (1, 2):
            values, weights = operands(dtype, torch.channels_last, batch)
            total, again = torch.empty_like(values[0]), torch.empty_like(values[0])
            cuda.weighted_sum(values, weights, total, None)
            dots = cuda.dot_products(values, values[0])
            same = cuda.sum_and_dot_products(values, weights, values[0], again)
            # The interpreter cuts bfloat16 off where hardware rounds.
            assert_exact(values, weights, total, dots, again, same, rounding=2**-7)

        def total_of(values, weights, rows):
            total = torch.empty_like(torch.cat((values[0], values[0][:1])))
            cuda.weighted_sum(values, weights, total, rows)
            return total

        assert_exact_rows(values, total_of, rounding=2**-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@layouts
@batches
def test_on_a_gpu(dtype, memory_format, batch):
    values, weights = operands(dtype, memory_format, batch, "cuda")
    assert kernels.fits(values)
    total = add_up(values, weights)
    dots = kernels.dot_products(values, values[0])
    assert_exact(
        values, weights, total, dots, *kernels.sum_and_dot_products(values, weights, values[0])
    )
    assert_exact_rows(values, by_rows)


@needs_a_compiler
def test_infinities_and_nans_pass():
    values, weights = operands(torch.float32, torch.contiguous_format, 1)
    values[1][0, 0, 0, 0], values[2][1, 0, 0, 0] = torch.nan, torch.inf

    total = add_up(values, weights)

    assert total[0, 0, 0, 0].isnan()
    assert total[1, 0, 0, 0].isinf()
    rounded = add_up([value.bfloat16() for value in values], weights)
    assert rounded[0, 0, 0, 0].isnan()


def test_denormal_numbers_stay_on():
    assert torch.tensor([1e-40]).mul(0.5).item() > 0


@needs_a_compiler
def test_without_a_compiler_torch_computes_the_same(monkeypatch):
    values, weights = operands(torch.float32, torch.channels_last, 2)
    with_kernels = weighted_sum(values, weights)
    monkeypatch.setenv("CC", "no-such-compiler")
    cpu.library.cache_clear()
    try:
        assert not kernels.fits(values)
        torch.testing.assert_close(weighted_sum(values, weights), with_kernels)
    finally:
        monkeypatch.undo()
        cpu.library.cache_clear()


def test_a_compiler_that_fails_is_no_error(monkeypatch, tmp_path):
    monkeypatch.setenv("CC", "false")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cpu.library.cache_clear()
    try:
        assert cpu.library() is None
    finally:
        monkeypatch.undo()
        cpu.library.cache_clear()


if __name__ == "__main__":
    check_triton()


@needs_a_compiler
@pytest.mark.parametrize("home", [None, "a file"])
def test_kernels_need_no_home(monkeypatch, tmp_path, home):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    (tmp_path / "a file").touch()
    if home is None:
        monkeypatch.setattr(cpu.Path, "home", raise_error)
    else:
        monkeypatch.setenv("HOME", str(tmp_path / home))
    monkeypatch.setenv("CC", "cc -pipe")
    cpu.library.cache_clear()
    try:
        assert cpu.library() is not None
    finally:
        cpu.library.cache_clear()


def raise_error():
    raise RuntimeError("Could not determine home directory.")
