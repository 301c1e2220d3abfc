from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from compiler.passes._base import PASSES, Pass
from graphspec import NetworkGraph, Report, RouterCall, StageGraph
from graphspec.weights import Routed


@PASSES.register
@dataclass(frozen=True)
class PlaceRouters(Pass):
    """Gives every node with routed output edges one router for all of them.

    Source: DG-Net section 3.2: the input node and the blocks have routers, the output has none.
    """

    name: ClassVar[str] = "place-routers"

    def run(self, graph: NetworkGraph, report: Report) -> NetworkGraph:
        stages = tuple(place(stage) for stage in graph.stages)
        return graph if stages == graph.stages else replace(graph, stages=stages)


def place(stage: StageGraph) -> StageGraph:
    """The stage with a router on each node that has routed output edges."""
    targets: dict[int, list[int]] = {}
    kinds: dict[int, str] = {}
    for edge in stage.edges:
        if isinstance(edge.weights, Routed):
            targets.setdefault(edge.source, []).append(edge.target)
            kinds[edge.source] = edge.weights.router
    if not targets:
        return stage
    nodes = tuple(
        replace(node, router=RouterCall(kinds[index], tuple(sorted(targets[index]))))
        if index in targets
        else node
        for index, node in enumerate(stage.nodes)
    )
    return replace(stage, nodes=nodes)
