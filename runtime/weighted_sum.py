"""Weighted sums of feature maps, and their gradients, in as few passes over memory as there can be.

Autograd alone would write a product an edge, and add up the gradient of a value edge by edge.
"""
# What autograd is about to do is told by torch's private functions alone.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from runtime import kernels


def weighted_sum(values: Sequence[Tensor], weights: Tensor, node: int | None = None) -> Tensor:
    """sum_i weights[:, i] * values[i], in the dtype of the values.

    Every path computes the same numbers and the same gradients: ordinary products where
    something looks through them (torch.compile, torch.export, torch.func), otherwise one new
    tensor a sum. Values that several sums use should come through a `Tap`. `node` says that the
    weights are this node's row of a matrix whose columns may be `tapped_column`s.

    Shape: S values (B, C, H, W), weights (B or 1, S) -> (B, C, H, W)
    """
    if _is_seen_through() or not _is_uniform(values):
        return _sum_of_products(values, weights)
    if torch.is_grad_enabled() and any(x.requires_grad for x in (weights, *values)):
        return _WeightedSum.apply(node, weights, *values)  # pyright: ignore[reportReturnType]
    return add_up(values, weights)


class Tap(nn.Module):
    """Hands on a value that several weighted sums use, and gathers its gradient in one pass.

    Autograd adds the gradient of a value sum by sum: it writes a product, reads it, reads and
    writes the total. Sums leave their gradient and weight at the tap instead, whose backward
    runs after all of them. Other users of the value, gradients that nobody asked for, second
    backwards and double backwards work as without it. What is not there is the gradient at the
    tap's own output: hooks and `torch.autograd.grad` find it at the tap's input.

    Shape: (B, C, H, W) -> (B, C, H, W)
    """

    def forward(self, x: Tensor) -> Tensor:
        if not x.requires_grad or not torch.is_grad_enabled() or _is_seen_through():
            return x
        return _Tap.apply(x)  # pyright: ignore[reportReturnType]


def tapped_column(weights: Tensor, nodes: Sequence[int], value: Tensor | None) -> Tensor:
    """`weights` of the edges from `value` to `nodes`; their gradient is found with the value's.

    Sums would read their own gradient once for each weight, and the tap of `value` once more
    for each edge. Where `value` comes from a `Tap`, one pass does both.

    Shape: weights (B, T) -> (B, T)
    """
    if value is None or not weights.requires_grad or _is_seen_through():
        return weights
    deposits = getattr(value.grad_fn, "deposits", None)
    if deposits is None or not torch.is_grad_enabled():
        return weights
    return _TappedColumn.apply(weights, value, deposits, tuple(nodes))  # pyright: ignore[reportReturnType]


def factors(weights: Tensor, like: Tensor) -> list[Tensor]:
    """One factor an edge. Shape: (B or 1, S) -> S times (B or 1, 1, 1, 1)"""
    shape = (-1, *(1,) * (like.dim() - 1))
    return [column.reshape(shape) for column in weights.to(like.dtype).unbind(1)]


def add_up(values: Sequence[Tensor], weights: Tensor, out: Tensor | None = None) -> Tensor:
    """The weighted sum without gradients, in `out` or as one new tensor.

    Fresh memory costs a CPU more than the arithmetic: no product is ever stored.
    Shape: S values (B, C, H, W), weights (B or 1, S) -> (B, C, H, W)
    """
    total = torch.empty_like(values[0]) if out is None else out
    if kernels.fits(values) and are_laid_out_alike((*values, total)):
        kernels.weighted_sum(values, weights, total)
        return total
    first, *others = factors(weights, values[0])
    torch.mul(values[0], first, out=total)
    for value, factor in zip(values[1:], others, strict=True):
        total.addcmul_(value, factor)
    return total


def are_laid_out_alike(tensors: Sequence[Tensor]) -> bool:
    """Whether all hold their elements in one order, without gaps."""
    return all(tensor.is_contiguous() for tensor in tensors) or all(map(_is_channels_last, tensors))


def _is_seen_through() -> bool:
    """Whether a compiler or a function transform must see ordinary operations."""
    return (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
    )


def _is_uniform(values: Sequence[Tensor]) -> bool:
    first = values[0]
    return all(value.shape == first.shape and value.dtype == first.dtype for value in values)


def _sum_of_products(values: Sequence[Tensor], weights: Tensor) -> Tensor:
    dtype = values[0].dtype
    for value in values[1:]:
        dtype = torch.promote_types(dtype, value.dtype)
    first, *others = factors(weights.to(dtype), values[0].to(dtype))
    total = values[0] * first
    for value, factor in zip(values[1:], others, strict=True):
        total = total + value * factor
    return total


def _is_channels_last(tensor: Tensor) -> bool:
    return tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)


def _is_run(node: Any) -> bool:
    """Whether this run of backward executes a node; torch does not tell of leaves."""
    return hasattr(node, "variable") or torch._C._will_engine_execute_node(node)


class _Deposit(NamedTuple):
    """What a sum leaves at the tap of one of its values.

    `node` is that of the sum where the tap is to find the weight's gradient too.
    Shape: grad (B, C, H, W), weight (B or 1, 1)
    """

    grad: Tensor
    weight: Tensor
    node: int | None


class _Deposits:
    """The deposits at one tap, for one run of backward alone, and the `nodes` of its column."""

    def __init__(self) -> None:
        self.nodes: tuple[int, ...] = ()
        self._run = -1
        self._deposits: list[_Deposit] = []
        self._total: Tensor | None = None

    def leave(self, deposit: _Deposit) -> None:
        self._begin()
        self._deposits.append(deposit)

    def total(self) -> Tensor | None:
        """The gradient of the value by all sums, None without any. Shape: (B, C, H, W)"""
        self._begin()
        total, self._total = self._total, None
        if self._deposits:  # no column has added them up
            deposits, self._deposits = self._deposits, []
            total = add_up([deposit.grad for deposit in deposits], _weights(deposits))
        return total

    def column(self, value: Tensor, weights: Tensor, *, is_value_needed: bool) -> Tensor | None:
        """The gradient of the column's weights; keeps that of the value for `total`.

        Shape: value (B, C, H, W), weights (B, T) -> (B, T)
        """
        self._begin()
        if not any(deposit.node is not None for deposit in self._deposits):
            return None
        deposits, self._deposits = self._deposits, []
        grads = [deposit.grad for deposit in deposits]
        if is_value_needed:
            self._total, dots = _sum_and_dot_products(grads, _weights(deposits), value)
        else:
            dots = _dot_products(grads, value)
        found = dots.new_zeros(len(dots), len(self.nodes))
        for index, deposit in enumerate(deposits):
            if deposit.node is not None:
                found[:, self.nodes.index(deposit.node)] = dots[:, index]
        return found.to(weights.dtype).sum_to_size(weights.shape)

    def _begin(self) -> None:
        """Forgets what a backward that failed, or stopped early, has left."""
        run = torch._C._current_graph_task_id()
        if run != self._run:
            self._run, self._deposits, self._total = run, [], None


def _weights(deposits: Sequence[_Deposit]) -> Tensor:
    batch = max(len(deposit.weight) for deposit in deposits)
    return torch.cat([deposit.weight.expand(batch, 1) for deposit in deposits], dim=1)


class _Tap(torch.autograd.Function):
    """The identity; its backward adds what `_WeightedSum` deposited to what autograd brings."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.deposits = _Deposits()
        return x.detach()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Tensor | None:
        (others,) = grads
        total = ctx.deposits.total()
        # The gradients of other users come last: a router's is an expanded mean, whose strides
        # would make a sum that starts with it lose channels_last.
        if total is None or others is None:
            return others if total is None else total
        return total.add_(others)


class _TappedColumn(torch.autograd.Function):
    """The identity of a column's weights; its backward runs after all sums, before the tap.

    Shape: weights (B, T), value (B, C, H, W) -> (B, T)
    """

    @staticmethod
    def forward(
        ctx: Any, weights: Tensor, value: Tensor, deposits: _Deposits, nodes: tuple[int, ...]
    ) -> Tensor:
        ctx.set_materialize_grads(False)
        # The value is an input, though no gradient leaves by it, so that its tap waits.
        ctx.save_for_backward(weights, value)
        ctx.deposits, deposits.nodes = deposits, nodes
        return weights.view_as(weights)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        (others,) = grads
        weights_producer, tap = (producer for producer, _ in ctx.next_functions)
        found = None
        if _is_run(weights_producer):
            weights, value = ctx.saved_tensors
            found = ctx.deposits.column(value, weights, is_value_needed=_is_run(tap))
        if found is not None and others is not None:
            found = found + others
        return (others if found is None else found), None, None, None


class _WeightedSum(torch.autograd.Function):
    """sum_i weights[:, i] * values[i]; keeps the values for the weights' gradient, no product.

    Shape: weights (B or 1, S), S values (B, C, H, W) -> (B, C, H, W)
    """

    @staticmethod
    def forward(ctx: Any, node: int | None, weights: Tensor, *values: Tensor) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(weights, *(values if weights.requires_grad else ()))
        ctx.node, ctx.is_channels_last = node, _is_channels_last(values[0])
        return add_up(values, weights)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        _, needs_weights, *needs_value = ctx.needs_input_grad
        if grad is None:
            return (None, None, *(None for _ in needs_value))
        weights, *values = ctx.saved_tensors
        # Pooling's gradient is expanded: every sum that it entered would lose channels_last.
        grad = grad.contiguous(
            memory_format=torch.channels_last if ctx.is_channels_last else torch.contiguous_format
        )
        # Of a gradient that is itself to be differentiated, autograd must see every step.
        if torch.is_grad_enabled() or _is_seen_through():
            dots = _recorded_dot_products(values, grad, weights) if needs_weights else None
            products = [
                grad * factor if is_needed else None
                for factor, is_needed in zip(factors(weights, grad), needs_value, strict=True)
            ]
            return None, dots, *products
        row, *producers = (producer for producer, _ in ctx.next_functions)
        needs_weights = needs_weights and _is_run(row)
        direct: list[int] = []  # the edges whose weight's gradient is found here
        value_grads: list[Tensor | None] = []
        for index, producer in enumerate(producers):
            deposits: _Deposits | None = getattr(producer, "deposits", None)
            is_tapped = needs_weights and deposits is not None and ctx.node in deposits.nodes
            if needs_weights and not is_tapped:
                direct.append(index)
            value_grad = None
            if deposits is None:
                if needs_value[index]:
                    value_grad = grad * factors(weights[:, index : index + 1], grad)[0]
            elif is_tapped or _is_run(producer):
                node = ctx.node if is_tapped else None
                deposits.leave(_Deposit(grad, weights[:, index : index + 1], node))
            value_grads.append(value_grad)
        return None, _row_gradient(values, grad, weights, direct), *value_grads


def _row_gradient(
    values: Sequence[Tensor], grad: Tensor, weights: Tensor, edges: Sequence[int]
) -> Tensor | None:
    """The gradient of a sum's weights, 0 but for `edges`; None without any.

    Shape: S values (B, C, H, W), grad (B, C, H, W), weights (B or 1, S) -> (B or 1, S)
    """
    if not edges:
        return None
    dots = _dot_products([values[edge] for edge in edges], grad)
    if len(edges) < len(values):
        every = dots.new_zeros(len(dots), len(values))
        every[:, list(edges)] = dots
        dots = every
    return dots.to(weights.dtype).sum_to_size(weights.shape)


def _recorded_dot_products(values: Sequence[Tensor], grad: Tensor, weights: Tensor) -> Tensor:
    dots = torch.stack([(grad * value).flatten(1).sum(1) for value in values], dim=1)
    return dots.to(weights.dtype).sum_to_size(weights.shape)


def _dot_products(values: Sequence[Tensor], other: Tensor) -> Tensor:
    """<values[i], other> of every sample. Shape: S values (B, C, H, W), other alike -> (B, S)"""
    tensors = [other, *values]
    if kernels.fits(tensors) and are_laid_out_alike(tensors):
        return kernels.dot_products(values, other)
    return torch.stack([(other * value).flatten(1).sum(1) for value in values], dim=1)


def _sum_and_dot_products(
    values: Sequence[Tensor], weights: Tensor, other: Tensor
) -> tuple[Tensor, Tensor]:
    """`add_up(values, weights)`, and <values[i], other> of every sample.

    Shape: S values (B, C, H, W), weights (B or 1, S), other (B, C, H, W)
        -> (B, C, H, W), (B, S)
    """
    tensors = [other, *values]
    if kernels.fits(tensors) and are_laid_out_alike(tensors):
        return kernels.sum_and_dot_products(values, weights, other)
    return add_up(values, weights), _dot_products(values, other)
