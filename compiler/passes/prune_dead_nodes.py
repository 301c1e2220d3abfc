from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from compiler.passes._base import PASSES, Pass
from graphspec import NetworkGraph, Report, StageGraph


@PASSES.register
@dataclass(frozen=True)
class PruneDeadNodes(Pass):
    """Removes what cannot reach a stage's output, with a warning that names it.

    1. A block node from which no path leads to the output node goes, with its edges.
    2. The remaining nodes keep their order and their names.

    Source: the static counterpart of DG-Net section 3.3, which drops nodes of closed edges.
    """

    name: ClassVar[str] = "prune-dead-nodes"

    def run(self, graph: NetworkGraph, report: Report) -> NetworkGraph:
        stages = tuple(prune(stage, report) for stage in graph.stages)
        return graph if stages == graph.stages else replace(graph, stages=stages)


def prune(stage: StageGraph, report: Report) -> StageGraph:
    """The stage without its dead nodes; the same object if there are none."""
    output = len(stage.nodes) - 1
    alive = {output}
    for edge in sorted(stage.edges, key=lambda edge: -edge.target):
        if edge.target in alive:
            alive.add(edge.source)
    dead = [
        index
        for index, node in enumerate(stage.nodes)
        if index not in alive and node.role == "block"
    ]
    if not dead:
        return stage
    for index in dead:
        node = stage.nodes[index]
        report.warning(
            "dead-node",
            node.path,
            f"no path leads from {stage.name}.{node.name} to {stage.name}.output; it is left out",
            "give it an edge towards the output, or remove it",
        )
    kept = [index for index in range(len(stage.nodes)) if index not in set(dead)]
    new_index = {old: new for new, old in enumerate(kept)}
    return replace(
        stage,
        nodes=tuple(stage.nodes[old] for old in kept),
        edges=tuple(
            replace(edge, source=new_index[edge.source], target=new_index[edge.target])
            for edge in stage.edges
            if edge.source in new_index and edge.target in new_index
        ),
    )
