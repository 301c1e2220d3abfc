"""Weighted sums and dot products that read each operand once. Optional: `fits` says where.

A sum of S tensors by torch's operations writes and reads its total S times. Where there are no
kernels, or these tensors are none for them, `runtime.weighted_sum` uses torch's operations and
computes the same. One module a kind of device; each has `TYPES`, `is_available` and the three
functions below.
"""
# Whether a dispatch mode is on is told by a private function of torch alone.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

SMALLEST = 1 << 16
"""Elements of a sum below which torch's operations are as fast: nothing is compiled for them."""


def fits(tensors: Sequence[Tensor], smallest: int = SMALLEST) -> bool:
    """Whether the kernels take these tensors: plain ones of one type and device, large enough."""
    first = tensors[0]
    if first.numel() < smallest or torch._C._len_torch_dispatch_stack():
        return False
    if any(type(tensor) is not Tensor or tensor.device != first.device for tensor in tensors):
        return False
    device = _for(first)
    return device is not None and first.dtype in device.TYPES and device.is_available()


def weighted_sum(
    values: Sequence[Tensor], weights: Tensor, total: Tensor, rows: Tensor | None = None
) -> None:
    """Writes sum_s weights[:, s] * values[s] to `total`; all in one order, without gaps.

    With `rows`, sample b reads values[s][rows[b, s]] instead of values[s][b], and nothing where
    that is below 0.

    Shape: S values (B, ...), weights (B or 1, S), total (B, ...), rows (B, S) int64
    """
    rows = None if rows is None else rows.contiguous()
    _for(total).weighted_sum(values, weights.detach().float().contiguous(), total, rows)


def dot_products(values: Sequence[Tensor], other: Tensor) -> Tensor:
    """<values[s], other> of every sample, in float32; all in one order, without gaps.

    Shape: S values (B, ...), other (B, ...) -> (B, S)
    """
    return _for(other).dot_products(values, other)


def sum_and_dot_products(
    values: Sequence[Tensor], weights: Tensor, other: Tensor
) -> tuple[Tensor, Tensor]:
    """The weighted sum of values, and <values[s], other>, from one reading of the values.

    Shape: S values (B, ...), weights (B or 1, S), other (B, ...) -> (B, ...), (B, S)
    """
    total = torch.empty_like(other)
    weights = weights.detach().float().contiguous()
    return total, _for(other).sum_and_dot_products(values, weights, other, total)


def _for(tensor: Tensor) -> Any:
    return _kernels(tensor.device.type)


@cache
def _kernels(device_type: str) -> Any:
    """The module of a kind of device; None where there is none, or no Triton for it."""
    if device_type not in ("cpu", "cuda"):
        return None
    try:
        return import_module(f"runtime.kernels.{device_type}")
    except ImportError:
        return None
