"""DG-Net's stage written straight from the paper's equations: slow, plain, and not ours to tune.

Nothing here uses `runtime.aggregate`, `runtime.gating` or `runtime.adjacency`; it only calls the
blocks and the routers' linear layers of a compiled stage.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from graphspec import Fixed, Learned, Routed, StageGraph


@dataclass
class Run:
    """Everything a stage computed, by node index."""

    inputs: dict[int, Tensor] = field(default_factory=dict)
    outputs: dict[int, Tensor] = field(default_factory=dict)
    weights: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    removed: dict[int, Tensor] = field(default_factory=dict)


def run_stage(
    graph: StageGraph,
    stage: nn.Module,
    features: list[Tensor],
    *,
    mode: Literal["soft", "masked"],
    rule: Literal["consistent", "literal"] = "consistent",
) -> Run:
    """Eqs. 3-5 and 10, edge by edge; weights are (B,) or () tensors."""
    run = Run()
    batch = features[0].shape[0]
    receivers = sorted({e.target for e in graph.edges if isinstance(e.weights, Routed)})
    for index, node in enumerate(graph.nodes):
        edges = graph.sources_of(index)
        if node.role == "input":
            x = features[index]
        elif node.aggregate == "concat":
            x = torch.cat([run.outputs[e.source] for e in edges], dim=1)
        else:
            x = sum(
                run.weights[e.source, index].reshape(-1, 1, 1, 1) * run.outputs[e.source]
                for e in edges
            )
            if node.aggregate == "mean":
                x = x / len(edges)
        run.inputs[index] = x
        if node.block is not None:
            x = stage.get_submodule(node.name)(x)
        removed = torch.zeros(batch, dtype=torch.bool)
        if (
            mode == "masked"
            and node.role == "block"
            and any(isinstance(e.weights, Routed) for e in edges)
        ):
            removed = torch.stack([_closed(run, e, index, batch) for e in edges]).all(dim=0)
            x = torch.where(removed.reshape(-1, 1, 1, 1), torch.zeros_like(x), x)
        run.removed[index] = removed
        run.outputs[index] = x
        _weigh(graph, stage, index, x, run, receivers, mode, rule)
    return run


def _closed(run: Run, edge, target: int, batch: int) -> Tensor:
    """A routed edge is closed when it weighs nothing; any edge is when its source is removed."""
    gone = run.removed[edge.source]
    if isinstance(edge.weights, Routed):
        return gone | (run.weights[edge.source, target] == 0).expand(batch)
    return gone


def _weigh(graph, stage, index, x, run, receivers, mode, rule) -> None:
    out = sorted((e for e in graph.edges if e.source == index), key=lambda e: e.target)
    routed = [e for e in out if isinstance(e.weights, Routed)]
    learned = [e for e in out if isinstance(e.weights, Learned)]
    if routed:
        linear = stage.get_submodule(f"router.{graph.nodes[index].name}").fc
        pooled = x.mean(dim=(2, 3))
        for column, e in enumerate(routed):
            score = pooled @ linear.weight[column] + linear.bias[column]
            a = 1 / (1 + torch.exp(-score))  # eq. 4
            weight = a
            if e.weights.threshold is not None:
                tau = stage.threshold[receivers.index(e.target)]
                psi = a / (1 + torch.exp(-(a - tau)))  # eq. 5
                if mode == "soft":
                    weight = psi
                else:
                    weight = torch.where(a < tau, 0.0, psi if rule == "consistent" else a)
            run.weights[index, e.target] = weight
    for e in out:
        if isinstance(e.weights, Fixed):
            run.weights[index, e.target] = torch.tensor(e.weights.value, dtype=x.dtype)
    for position, e in enumerate(learned):
        if receivers:
            raw = stage.get_submodule(f"gate.{graph.nodes[index].name}").weight[position]
        else:
            others = [s for s in graph.sources_of(e.target) if isinstance(s.weights, Learned)]
            name = f"aggregate.{graph.nodes[e.target].name}"
            raw = stage.get_submodule(name).weight[[s.source for s in others].index(index)]
        if e.weights.function == "sigmoid":
            raw = 1 / (1 + torch.exp(-raw))
        run.weights[index, e.target] = raw
