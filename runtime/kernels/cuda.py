"""The kernels of CUDA devices, in Triton, which PyTorch for Linux brings along."""
# Triton's language is no Python that a type checker knows.
# pyright: basic, reportArgumentType=false, reportIndexIssue=false

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

TYPES = {torch.float32, torch.bfloat16, torch.float16}
BLOCK = 4096
"""Elements of a sample that one program adds up: their total stays in its registers."""


def is_available() -> bool:
    """Always, where this module could be imported."""
    return True


def weighted_sum(
    values: Sequence[Tensor], weights: Tensor, total: Tensor, rows: Tensor | None
) -> None:
    """See `runtime.kernels.weighted_sum`."""
    _launch(values, weights, None, total, rows)


def dot_products(values: Sequence[Tensor], other: Tensor) -> Tensor:
    """See `runtime.kernels.dot_products`."""
    parts = _launch(values, None, other, None)
    assert parts is not None
    return parts


def sum_and_dot_products(
    values: Sequence[Tensor], weights: Tensor, other: Tensor, total: Tensor
) -> Tensor:
    """See `runtime.kernels.sum_and_dot_products`."""
    parts = _launch(values, weights, other, total)
    assert parts is not None
    return parts


def _launch(
    values: Sequence[Tensor],
    weights: Tensor | None,
    other: Tensor | None,
    total: Tensor | None,
    rows: Tensor | None = None,
) -> Tensor | None:
    first = values[0]
    num_values, length = len(values), first[0].numel()
    batch = len(first if total is None else total)
    tiles = triton.cdiv(length, BLOCK)
    table = torch.tensor([value.data_ptr() for value in values], dtype=torch.int64)
    if first.is_cuda:  # from pinned memory, so that the copy waits for nothing
        table = table.pin_memory().to(first.device, non_blocking=True)
    parts = None
    if other is not None:
        parts = first.new_empty(batch, tiles, num_values, dtype=torch.float32)
    with torch.cuda.device_of(first):
        _sum_and_dots[tiles, batch](
            table,
            table if rows is None else rows,
            first if weights is None else weights,
            first if other is None else other,
            first if total is None else total,
            first if parts is None else parts,
            num_values,
            length,
            0 if weights is None or len(weights) == 1 else num_values,
            HAS_ROWS=rows is not None,
            HAS_SUM=total is not None,
            HAS_DOTS=other is not None,
            BLOCK=BLOCK,
        )
    return None if parts is None else parts.sum(1)


@triton.jit
def _sum_and_dots(
    table,
    rows,
    weights,
    other,
    total,
    parts,
    num_values,
    length,
    stride,
    HAS_ROWS: tl.constexpr,  # noqa: N803
    HAS_SUM: tl.constexpr,  # noqa: N803
    HAS_DOTS: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
):
    """One tile of one sample: total = sum_s weights[b, s] * x_s, parts[b, tile, s] = <x_s, other>.

    `table` holds the addresses of the values, which have the type of `other` and `total`; `rows`
    the row of x_s that the sample reads, below 0 for none.
    """
    tile, sample = tl.program_id(0), tl.program_id(1)
    inside = tile * BLOCK + tl.arange(0, BLOCK)
    mask = inside < length
    where = sample.to(tl.int64) * length + inside
    added = tl.zeros([BLOCK], tl.float32)
    if HAS_DOTS:
        against = tl.load(other + where, mask=mask, other=0.0).to(tl.float32)
    for index in range(num_values):
        address = tl.load(table + index).to(tl.pointer_type(other.dtype.element_ty))
        place, wanted = address + where, mask
        if HAS_ROWS:
            row = tl.load(rows + sample * num_values + index)
            place = address + row * length + inside
            wanted = inside < tl.where(row < 0, 0, length)
        value = tl.load(place, mask=wanted, other=0.0).to(tl.float32)
        if HAS_SUM:
            added += value * tl.load(weights + sample * stride + index)
        if HAS_DOTS:
            part = (sample * tl.num_programs(0) + tile) * num_values + index
            tl.store(parts + part, tl.sum(value * against))
    if HAS_SUM:
        tl.store(total + where, added.to(total.dtype.element_ty), mask=mask)
