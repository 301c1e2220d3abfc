"""Inference that skips: closed edges are not read, removed nodes are not computed.

Each node runs on the samples that it is alive for, and on no others. What comes out is what
"masked" inference computes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, fx, nn

from runtime import kernels
from runtime.aggregate import RoutedConcat, RoutedSum
from runtime.gating import Gate, gates
from runtime.outputs import stages, wiring
from runtime.weighted_sum import are_laid_out_alike


def sparse(model: fx.GraphModule) -> fx.GraphModule:
    """A network that shares every parameter and buffer with `model` and skips at inference.

    Training and "soft" mode run the stages of `model` as they are; so do stages without
    routed edges. Gates are shared, and with them the inference rule and pinned routes.

    Raises: ValueError for a network `with_outputs`, or one that is sparse already.
    """
    root, program = nn.Module(), fx.Graph()
    for name, child in model.named_children():
        if isinstance(child, SparseStage):
            raise ValueError(f"{name!r} is sparse already")
        root.add_module(name, child)
    for name, stage in stages(model):
        if any(gates(stage)):
            if hasattr(stage, "adjacency"):
                raise ValueError("a sparse network puts out logits alone; give it the plain one")
            root.add_module(name, SparseStage(stage))
    program.output(program.graph_copy(model.graph, {}))
    program.lint()
    return fx.GraphModule(root, program, class_name=type(model).__name__).train(model.training)


class _Node(NamedTuple):
    """The parts of a node that there are, by name, and its sources."""

    name: str
    sources: tuple[int, ...]
    block: nn.Module | None
    aggregate: RoutedSum | RoutedConcat | None
    router: nn.Module | None
    gate: Gate | None


class _Rows(NamedTuple):
    """A node's output for the samples that it was computed for.

    `samples` holds them in order, None for all; `row_of` a row for each sample, -1 for none.
    Shape: features (len(samples), C, H, W), row_of (B,)
    """

    features: Tensor
    samples: Tensor | None
    row_of: Tensor


class SparseStage(nn.Module):
    """A stage with routed edges that computes open edges and living nodes alone.

    Shape: one (B, C, H, W) an input node -> (B, C', H', W')
    """

    def __init__(self, stage: fx.GraphModule) -> None:
        super().__init__()
        for name, child in stage.named_children():
            self.add_module(name, child)
        for name, parameter in stage.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        for name, buffer in stage.named_buffers(recurse=False):
            self.register_buffer(name, buffer)
        # In a tuple, so that its modules do not count twice.
        self._stage = (stage,)
        self._wiring = wiring(stage)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SparseStage:
        # What moves parameters replaces buffers: the other stage's are these.
        super()._apply(fn, recurse)
        for name, buffer in self.named_buffers(recurse=False):
            self._stage[0].register_buffer(name, buffer)
        return self

    def forward(self, *features: Tensor) -> Tensor:
        batch = len(features[0])
        if not batch or self.training or any(gate.mode == "soft" for gate in gates(self)):
            return self._stage[0](*features)
        nodes = self._nodes()
        everyone = torch.arange(batch, device=features[0].device)
        needed = _needed(nodes, batch)
        last_use = {source: index for index, node in enumerate(nodes) for source in node.sources}
        threshold = getattr(self, "threshold", None)
        outputs: list[_Rows | None] = []
        adjacency: Tensor | None = None
        for index, node in enumerate(nodes):
            if index < len(features):
                value: _Rows | None = _Rows(features[index], None, everyone)
            else:
                assert adjacency is not None
                if node.gate is None and all(outputs[source] is None for source in node.sources):
                    # No sample reaches the output: zeros, of a size that nothing here tells.
                    return self._stage[0](*features)
                value = _gather(node, index, outputs, adjacency, needed)
            if value is not None and node.block is not None:
                value = value._replace(features=node.block(value.features))
            outputs.append(value)
            if node.gate is not None:
                scores = _scores(node, value, features[0], batch)
                adjacency = node.gate(scores, adjacency, threshold)
            for source in node.sources:
                if last_use[source] == index:
                    outputs[source] = None
        result = outputs[-1]
        assert result is not None
        return result.features

    def _nodes(self) -> list[_Node]:
        sources = {index: sources for index, sources, _ in self._wiring.rows}
        parts = dict(self.named_modules())
        return [
            _Node(
                name,
                sources.get(index, ()),
                parts.get(name),
                parts.get(f"aggregate.{name}"),  # pyright: ignore[reportArgumentType]
                parts.get(f"router.{name}"),
                parts.get(f"gate.{name}"),  # pyright: ignore[reportArgumentType]
            )
            for index, name in enumerate(self._wiring.nodes)
        ]


def _needed(nodes: Sequence[_Node], batch: int) -> Tensor | None:
    """Who has an open way to the output, where pinned routes say so before anything runs.

    Shape: (B, N), or None where routers decide
    """
    found = [node.gate for node in nodes if node.gate is not None]
    pinned = [gate.pinned for gate in found if gate.pinned is not None]
    if len(pinned) < len(found):
        return None
    needed = torch.zeros(batch, len(nodes), dtype=torch.bool, device=pinned[0].device)
    needed[:, -1] = True
    for gate, routes in zip(reversed(found), reversed(pinned), strict=True):
        needed[:, gate.node] = ((routes != 0) & needed[:, gate.targets]).any(1)
    return needed


def _scores(node: _Node, value: _Rows | None, like: Tensor, batch: int) -> Tensor:
    """The router's scores, 0 for samples that the node was not computed for. Shape: (B, R)"""
    assert node.gate is not None and node.router is not None
    if value is None:
        return like.new_zeros(batch, node.gate.num_routed)
    is_pinned = node.gate.pinned is not None and node.gate.pinned.dtype != torch.bool
    if is_pinned:
        return like.new_zeros(batch, node.gate.num_routed)
    scores = node.router(value.features)
    if value.samples is None:
        return scores
    return scores.new_zeros(batch, scores.shape[1]).index_copy(0, value.samples, scores)


def _gather(
    node: _Node,
    index: int,
    outputs: Sequence[_Rows | None],
    adjacency: Tensor,
    needed: Tensor | None,
) -> _Rows | None:
    """What a node receives, for the samples that it is alive for; None if there are none."""
    weights = adjacency[:, index, list(node.sources)]
    is_open = weights != 0
    batch = len(weights)
    alive = torch.ones(batch, dtype=torch.bool, device=weights.device)
    if node.gate is not None:
        if node.gate.removable:
            alive = is_open.any(1)
        if needed is not None:
            alive = alive & needed[:, index]
    samples = alive.nonzero().flatten()
    if not len(samples):
        return None
    sources = [outputs[source] for source in node.sources]
    everyone = torch.arange(batch, device=weights.device)
    is_dense = len(samples) == batch and all(
        source is not None and source.samples is None for source in sources
    )
    assert node.aggregate is not None
    if is_dense and is_open.all():
        values = [source.features for source in sources if source is not None]
        return _Rows(node.aggregate(values, adjacency), None, everyone)
    # Where each sample finds each source, -1 for what is closed or was not computed.
    nowhere = torch.full_like(everyone, -1)
    rows = torch.stack([nowhere if s is None else s.row_of for s in sources], dim=1)[samples]
    if isinstance(node.aggregate, RoutedConcat):
        features = _concat(node.aggregate, sources, rows)
    else:
        rows = torch.where(is_open[samples], rows, -1)
        features = _sum(sources, weights[samples] / node.aggregate.divisor, rows)
    if len(samples) == batch:
        return _Rows(features, None, everyone)
    row_of = nowhere.index_copy(0, samples, everyone[: len(samples)])
    return _Rows(features, samples, row_of)


def _sum(sources: Sequence[_Rows | None], weights: Tensor, rows: Tensor) -> Tensor:
    """The weighted sum over open edges.

    Shape: n samples, weights and rows (n, S) -> (n, C, H, W)
    """
    like = next(source.features for source in sources if source is not None)
    values = [like if source is None else source.features for source in sources]
    is_recorded = torch.is_grad_enabled() and any(t.requires_grad for t in (weights, *values))
    total = _empty(like, len(rows))
    tensors = (*values, total)
    if not is_recorded and kernels.fits(tensors, smallest=0) and are_laid_out_alike(tensors):
        kernels.weighted_sum(values, weights, total, rows)
        return total
    total.zero_()
    for value, weight, row in zip(
        values, weights.to(like.dtype).unbind(1), rows.unbind(1), strict=True
    ):
        to = (row >= 0).nonzero().flatten()
        if len(to):
            factor = weight[to].view(-1, *(1,) * (like.dim() - 1))
            total.index_add_(0, to, value.index_select(0, row[to]) * factor)
    return total


def _empty(like: Tensor, num_samples: int) -> Tensor:
    """A tensor for `num_samples`, in the memory format of `like`; `index_select` forgets it."""
    is_last = like.dim() == 4 and like.is_contiguous(memory_format=torch.channels_last)
    return torch.empty(
        num_samples,
        *like.shape[1:],
        dtype=like.dtype,
        device=like.device,
        memory_format=torch.channels_last if is_last else torch.contiguous_format,
    )


def _concat(aggregate: RoutedConcat, sources: Sequence[_Rows | None], rows: Tensor) -> Tensor:
    """Features of all sources side by side, 0 where a source was removed.

    Shape: n samples, rows (n, S) -> (n, C, H, W)
    """
    like = next(source.features for source in sources if source is not None)
    parts: list[Tensor] = []
    for channels, source, row in zip(aggregate.channels, sources, rows.unbind(1), strict=True):
        part = like.new_zeros(len(rows), channels, *like.shape[2:])
        if source is not None:
            there = (row >= 0).nonzero().flatten()
            part[there] = source.features[row[there]]
        parts.append(part)
    return torch.cat(parts, dim=1)
