from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx

from compiler.lower import lower
from compiler.passes.place_routers import place
from graphspec import Edge, Learned, NetworkGraph, Routed, StageGraph
from runtime.gating import gates, inference
from runtime.outputs import with_outputs


@dataclass(frozen=True)
class Removed:
    """An edge that specialisation left out; `share`: of the samples it was open for."""

    stage: str
    source: str
    target: str
    share: float


@dataclass(frozen=True)
class Specialised:
    """A smaller network, its graph (for counting and printing), and what it lacks."""

    model: fx.GraphModule
    graph: NetworkGraph
    edges: tuple[Removed, ...]
    nodes: tuple[str, ...]
    """Full names of the nodes that nothing feeds or nobody uses any more."""


@torch.no_grad()
def open_shares(model: fx.GraphModule, batches: Iterable[Tensor]) -> dict[str, Tensor]:
    """How often each edge of every routed stage is open at inference, on a calibration set.

    Shape: images (B, C, H, W) -> by stage (N, N), in [0, 1]
    """
    routed = [name for name, child in model.named_children() if any(gates(child))]
    was_training, counts, samples = model.training, dict[str, Tensor](), 0
    network = with_outputs(model.eval())
    with inference(model, mode="masked"):
        for images in batches:
            _, adjacency, _ = network(images)
            samples += len(images)
            for name in routed:
                is_open = (adjacency[name] != 0).double().sum(0)
                counts[name] = counts[name] + is_open if name in counts else is_open
    model.train(was_training)
    if not samples:
        raise ValueError("the calibration set is empty")
    return {name: count / samples for name, count in counts.items()}


def specialise(
    model: fx.GraphModule,
    graph: NetworkGraph,
    shares: Mapping[str, Tensor],
    *,
    at_most: float = 0.0,
) -> Specialised:
    """The network without the edges that are open for at most a share `at_most` of samples.

    `graph` is what `model` was lowered from; `shares` comes from `open_shares`, or is a pinned
    mask (N, N) of 0 and 1. The result is an ordinary compiled network with the weights of
    `model`; with `at_most` 0 it computes what `model` does, on samples like the calibration set.

    1. An edge that is open too seldom goes; a stage whose output would lose all stays whole.
    2. A block that nothing feeds, or that leads nowhere, goes with its edges.
    3. Routers and thresholds keep what belongs to the edges that stay.
    4. What a concatenation reads stays: its channels have their places.

    Raises: ValueError while routes are pinned; their shares are what to specialise to.
    """
    if any(gate.pinned is not None for gate in gates(model)):
        raise ValueError(
            "routes are pinned: give them back (pin_routes(model, {stage: None})) and pass the "
            "masks as shares"
        )
    edges: list[Removed] = []
    nodes: list[str] = []
    stages: list[StageGraph] = []
    for stage in graph.stages:
        smaller = stage
        if stage.name in shares:
            share = shares[stage.name].tolist()
            smaller = _reduce(stage, share, at_most)
            kept = {(e.source, e.target) for e in smaller.edges}
            edges += [
                Removed(
                    stage.name,
                    stage.nodes[e.source].name,
                    stage.nodes[e.target].name,
                    share[e.target][e.source],
                )
                for e in stage.edges
                if (e.source, e.target) not in kept
            ]
            smaller, gone = _without_unused(smaller)
            nodes += gone
        stages.append(smaller)
    reduced = replace(graph, stages=tuple(stages))
    with torch.device("meta"):
        network = lower(reduced)
    tensors = model.state_dict()
    before = {stage.name: stage for stage in graph.stages}
    after = {stage.name: stage for stage in stages}
    network.load_state_dict(
        {key: _select(key, tensors, before, after) for key in network.state_dict()}, assign=True
    )
    for stage in stages:
        _copy_settings(model, network, stage)
    return Specialised(network.train(model.training), reduced, tuple(edges), tuple(nodes))


def _reduce(stage: StageGraph, share: list[list[float]], at_most: float) -> StageGraph:
    """The stage with the edges that stay; nodes keep their indices."""
    protected = {
        edge.source for edge in stage.edges if stage.nodes[edge.target].aggregate == "concat"
    }
    alive: set[int] = set()
    kept: list[Edge] = []
    for index, node in enumerate(stage.nodes):
        edges = [edge for edge in stage.sources_of(index) if edge.source in alive]
        if index not in protected and node.aggregate != "concat":
            open_edges = [edge for edge in edges if share[index][edge.source] > at_most]
            if node.role == "output" and not open_edges:
                return stage
            edges = open_edges
        if node.role == "input" or edges:
            alive.add(index)
        kept += edges
    return replace(stage, edges=tuple(kept))


def _without_unused(stage: StageGraph) -> tuple[StageGraph, list[str]]:
    """The stage without blocks that lead nowhere, routers placed anew; names of those that go."""
    used = {len(stage.nodes) - 1}
    for index in range(len(stage.nodes) - 1, -1, -1):
        if index in used:
            used.update(edge.source for edge in stage.sources_of(index))
    stay = [
        index for index, node in enumerate(stage.nodes) if index in used or node.role == "input"
    ]
    new_index = {old: new for new, old in enumerate(stay)}
    gone = [f"{stage.name}.{n.name}" for i, n in enumerate(stage.nodes) if i not in new_index]
    smaller = replace(
        stage,
        nodes=tuple(replace(stage.nodes[old], router=None) for old in stay),
        edges=tuple(
            replace(edge, source=new_index[edge.source], target=new_index[edge.target])
            for edge in stage.edges
            if edge.source in new_index and edge.target in new_index
        ),
    )
    return place(smaller), gone


def _select(
    key: str,
    tensors: Mapping[str, Tensor],
    before: Mapping[str, StageGraph],
    after: Mapping[str, StageGraph],
) -> Tensor:
    """The part of the tensor `key` that belongs to the edges that stay."""
    stage_name, _, rest = key.partition(".")
    group, _, rest = rest.partition(".")
    if key not in tensors:
        node = rest.removesuffix(".weight")
        return _learned_row(tensors, before[stage_name], after[stage_name], node)
    tensor = tensors[key]
    if stage_name in after:
        old, new = before[stage_name], after[stage_name]
        if group == "threshold":
            tensor = tensor[_positions(_receivers(old), _receivers(new))]
        elif group in ("router", "gate"):
            kind = Routed if group == "router" else Learned
            node = rest.partition(".")[0]
            olds, news = _targets(old, node, kind), _targets(new, node, kind)
            if len(olds) != len(news) and len(tensor) == len(olds):
                tensor = tensor[_positions(olds, news)]
    return tensor.clone()


def _learned_row(
    tensors: Mapping[str, Tensor], old: StageGraph, new: StageGraph, node: str
) -> Tensor:
    """The learned input edges of `node`, which gates keep as long as a stage is routed."""
    index = next(i for i, other in enumerate(new.nodes) if other.name == node)
    sources = [
        new.nodes[edge.source].name
        for edge in new.sources_of(index)
        if isinstance(edge.weights, Learned)
    ]
    found = [
        tensors[f"{old.name}.gate.{source}.weight"][_targets(old, source, Learned).index(node)]
        for source in sources
    ]
    return torch.stack(found)


def _positions(olds: list[str], news: list[str]) -> list[int]:
    return [olds.index(name) for name in news]


def _receivers(stage: StageGraph) -> list[str]:
    indices = {edge.target for edge in stage.edges if isinstance(edge.weights, Routed)}
    return [stage.nodes[index].name for index in sorted(indices)]


def _targets(stage: StageGraph, node: str, kind: type) -> list[str]:
    index = next(i for i, other in enumerate(stage.nodes) if other.name == node)
    edges = [edge for edge in stage.targets_of(index) if isinstance(edge.weights, kind)]
    return [stage.nodes[edge.target].name for edge in edges]


def _copy_settings(model: fx.GraphModule, network: fx.GraphModule, stage: StageGraph) -> None:
    """Inference mode and rule, and the divisor of means, which counts edges that went too."""
    modules = dict(model.get_submodule(stage.name).named_modules())
    for name, module in network.get_submodule(stage.name).named_modules():
        if name.startswith("gate."):
            module.mode, module.rule = modules[name].mode, modules[name].rule
        elif name.startswith("aggregate.") and hasattr(module, "divisor"):
            module.divisor = modules[name].divisor
