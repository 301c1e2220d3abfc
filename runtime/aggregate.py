"""What a node gathers: the (weighted) sum, mean or concatenation of its sources' outputs.

Source: DG-Net eqs. 1 and 3; RandWire section 3.2; DenseNet section 3 for `Concat`.
"""
# What autograd is about to do is told by torch's private functions alone.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from runtime import kernels
from runtime.adjacency import read_row
from runtime.gating import edge_function


def weighted_sum(values: Sequence[Tensor], weights: Tensor) -> Tensor:
    """sum_i weights[:, i] * values[i], in the dtype of the values.

    Every path computes the same numbers and the same gradients: ordinary products where
    something looks through them (torch.compile, torch.export, torch.func), otherwise one new
    tensor a sum. Values that several sums use should come through a `Tap`.

    Shape: S values (B, C, H, W), weights (B or 1, S) -> (B, C, H, W)
    """
    if _is_seen_through() or not _is_uniform(values):
        return _sum_of_products(values, weights)
    if torch.is_grad_enabled() and any(x.requires_grad for x in (weights, *values)):
        return _WeightedSum.apply(weights, *values)  # pyright: ignore[reportReturnType]
    return add_up(values, weights)


class Tap(nn.Module):
    """Hands on a value that several weighted sums use, and gathers its gradient in one pass.

    Autograd adds the gradient of a value sum by sum: it writes a product, reads it, reads and
    writes the total. Sums leave their gradient and weight at the tap instead, whose backward
    runs after all of them. Nothing else changes: other users of the value, gradients that
    nobody asked for, second backwards and double backwards work as without it.

    Shape: (B, C, H, W) -> (B, C, H, W)
    """

    def forward(self, x: Tensor) -> Tensor:
        if not x.requires_grad or not torch.is_grad_enabled() or _is_seen_through():
            return x
        return _Tap.apply(x)  # pyright: ignore[reportReturnType]


def _is_seen_through() -> bool:
    """Whether a compiler or a function transform must see ordinary operations."""
    return (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
    )


def _is_uniform(values: Sequence[Tensor]) -> bool:
    first = values[0]
    return all(value.shape == first.shape and value.dtype == first.dtype for value in values)


def _columns(weights: Tensor, like: Tensor) -> list[Tensor]:
    """One factor an edge. Shape: (B or 1, S) -> S times (B or 1, 1, 1, 1)"""
    shape = (-1, *(1,) * (like.dim() - 1))
    return [column.reshape(shape) for column in weights.to(like.dtype).unbind(1)]


def _sum_of_products(values: Sequence[Tensor], weights: Tensor) -> Tensor:
    dtype = values[0].dtype
    for value in values[1:]:
        dtype = torch.promote_types(dtype, value.dtype)
    columns = _columns(weights.to(dtype), values[0].to(dtype))
    total = values[0] * columns[0]
    for value, column in zip(values[1:], columns[1:], strict=True):
        total = total + value * column
    return total


def add_up(values: Sequence[Tensor], weights: Tensor, out: Tensor | None = None) -> Tensor:
    """The weighted sum without gradients, in `out` or as one new tensor.

    Fresh memory costs a CPU more than the arithmetic: no product is ever stored.
    Shape: S values (B, C, H, W), weights (B or 1, S) -> (B, C, H, W)
    """
    total = torch.empty_like(values[0]) if out is None else out
    if kernels.fits(values) and _are_laid_out_alike((*values, total)):
        kernels.weighted_sum(values, weights, total)
        return total
    columns = _columns(weights, values[0])
    torch.mul(values[0], columns[0], out=total)
    for value, column in zip(values[1:], columns[1:], strict=True):
        total.addcmul_(value, column)
    return total


def _are_laid_out_alike(tensors: Sequence[Tensor]) -> bool:
    """Whether all hold their elements in one order, without gaps."""
    return all(tensor.is_contiguous() for tensor in tensors) or all(map(_is_channels_last, tensors))


def _is_channels_last(tensor: Tensor) -> bool:
    return tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)


class _Tap(torch.autograd.Function):
    """The identity; its backward adds what `_WeightedSum` deposited to what autograd brings."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.deposits = (None, [])
        return x.detach()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Tensor | None:
        (others,) = grads
        run, deposits = ctx.deposits
        ctx.deposits = (None, [])
        if run != torch._C._current_graph_task_id():
            return others  # deposits of a backward that failed, or none
        # The gradients of other users come last: a router's is an expanded mean, whose strides
        # would make a sum that starts with it lose channels_last.
        sums, columns = zip(*deposits, strict=True)
        batch = max(len(column) for column in columns)
        total = add_up(sums, torch.cat([column.expand(batch, 1) for column in columns], dim=1))
        return total if others is None else total.add_(others)


def _deposit(tap: Any, grad: Tensor, column: Tensor) -> None:
    """Leaves a gradient at a tap, for the current run of backward alone."""
    run = torch._C._current_graph_task_id()
    if tap.deposits[0] != run:
        tap.deposits = (run, [])
    tap.deposits[1].append((grad, column))


class _WeightedSum(torch.autograd.Function):
    """sum_i weights[:, i] * values[i]; keeps the values for the weights' gradient, no product.

    Shape: weights (B or 1, S), S values (B, C, H, W) -> (B, C, H, W)
    """

    @staticmethod
    def forward(ctx: Any, weights: Tensor, *values: Tensor) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(weights, *(values if weights.requires_grad else ()))
        ctx.is_channels_last = _is_channels_last(values[0])
        return add_up(values, weights)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        if grad is None:
            return (None,) * len(ctx.needs_input_grad)
        weights, *values = ctx.saved_tensors
        # Pooling's gradient is expanded: every sum that it entered would lose channels_last.
        grad = grad.contiguous(
            memory_format=torch.channels_last if ctx.is_channels_last else torch.contiguous_format
        )
        # Of a gradient that is itself to be differentiated, autograd must see every step.
        is_recorded = torch.is_grad_enabled() or _is_seen_through()
        weight_grads = None
        if ctx.needs_input_grad[0]:
            weight_grads = _dot_products(values, grad, weights, is_recorded=is_recorded)
        value_grads: list[Tensor | None] = []
        for index, column in enumerate(_columns(weights, grad)):
            producer = ctx.next_functions[index + 1][0]
            value_grad = None
            if is_recorded or not hasattr(producer, "deposits"):
                value_grad = grad * column if ctx.needs_input_grad[index + 1] else None
            elif torch._C._will_engine_execute_node(producer):
                _deposit(producer, grad, weights[:, index : index + 1])
            value_grads.append(value_grad)
        return weight_grads, *value_grads


def _dot_products(
    values: Sequence[Tensor], grad: Tensor, weights: Tensor, *, is_recorded: bool
) -> Tensor:
    """<grad, values[i]> of every sample, or of all where they share their weights.

    Shape: S values (B, C, H, W), grad (B, C, H, W) -> that of weights
    """
    tensors = [grad, *values]
    if not is_recorded and kernels.fits(tensors) and _are_laid_out_alike(tensors):
        rows = kernels.dot_products(values, grad)
    else:
        rows = torch.stack([(grad * value).flatten(1).sum(1) for value in values], dim=1)
    return rows.to(weights.dtype).sum_to_size(weights.shape)


class Concat(nn.Module):
    """Channels of all sources one after another, by ascending source.

    Shape: S values (B, C_i, H, W) -> (B, sum C_i, H, W)
    """

    def forward(self, values: list[Tensor]) -> Tensor:
        return torch.cat(values, dim=1)


class RoutedConcat(nn.Module):
    """`Concat` in a stage with routed edges: the output of a removed node counts as 0.

    `channels` are those of each source.
    Shape: S values (B, C_i, H, W), adjacency (B, N, j) -> (B, sum C_i, H, W)
    """

    def __init__(self, node: int, sources: Sequence[int], channels: Sequence[int]) -> None:
        super().__init__()
        self.node, self.sources, self.channels = node, tuple(sources), tuple(channels)

    def forward(self, values: list[Tensor], adjacency: Tensor) -> Tensor:
        if not self.training:
            columns = _columns(read_row(adjacency, self.node, self.sources), values[0])
            values = [value * (column != 0) for value, column in zip(values, columns, strict=True)]
        return torch.cat(values, dim=1)


class Sum(nn.Module):
    """Sum (or mean) over edges of fixed weight.

    Shape: S values (B, C, H, W) -> (B, C, H, W)
    """

    def __init__(self, weights: Sequence[float], *, mean: bool = False) -> None:
        super().__init__()
        self.weights = tuple(weights)
        self.divisor = len(self.weights) if mean else 1

    def forward(self, values: list[Tensor]) -> Tensor:
        scaled = [
            value if weight == 1 else value * weight
            for value, weight in zip(values, self.weights, strict=True)
        ]
        total = scaled[0]
        for index, value in enumerate(scaled[1:]):
            # The first sum makes a tensor of our own; adding saves nothing for backward, so
            # the others may go into it.
            total = total.add_(value) if index else total + value
        return total if self.divisor == 1 else total / self.divisor

    def row(self) -> Tensor:
        """The weights of the input edges. Shape: (S,)"""
        return torch.tensor(self.weights, dtype=torch.float64) / self.divisor


class LearnedSum(nn.Module):
    """Sum (or mean) over edges of which some have a learned weight, equal for all samples.

    `fixed` holds a weight for every source, None where it is learned.
    Source: RandWire section 3.2; "alpha" of DG-Net's table 6.
    Shape: S values (B, C, H, W) -> (B, C, H, W)
    """

    def __init__(
        self,
        fixed: Sequence[float | None],
        *,
        function: Literal["sigmoid", "free"],
        init: Sequence[float],
        mean: bool = False,
    ) -> None:
        super().__init__()
        self.fixed = tuple(fixed)
        self.function: Literal["sigmoid", "free"] = function
        self.divisor = len(self.fixed) if mean else 1
        self.weight = nn.Parameter(torch.tensor(list(init)))

    def row(self) -> Tensor:
        """The weights of the input edges. Shape: (S,)"""
        learned = edge_function(self.weight, self.function)
        if None in self.fixed and any(value is not None for value in self.fixed):
            parts = iter(learned)
            learned = torch.stack(
                [
                    next(parts) if value is None else learned.new_tensor(value)
                    for value in self.fixed
                ]
            )
        return learned if self.divisor == 1 else learned / self.divisor

    def forward(self, values: list[Tensor]) -> Tensor:
        return weighted_sum(values, self.row().unsqueeze(0))


class RoutedSum(nn.Module):
    """Sum (or mean) weighted by a row of the stage's adjacency matrix (DG-Net eq. 3).

    Shape: S values (B, C, H, W), adjacency (B, N, j) -> (B, C, H, W)
    """

    def __init__(self, node: int, sources: Sequence[int], *, mean: bool = False) -> None:
        super().__init__()
        self.node, self.sources = node, tuple(sources)
        self.divisor = len(self.sources) if mean else 1

    def forward(self, values: list[Tensor], adjacency: Tensor) -> Tensor:
        row = read_row(adjacency, self.node, self.sources)
        return weighted_sum(values, row if self.divisor == 1 else row / self.divisor)
