from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from compiler.passes._base import PASSES, Pass
from graphspec import CATALOGUE, BlockCall, NetworkGraph, Node, Report
from graphspec.catalogue import Entry


@PASSES.register
@dataclass(frozen=True)
class ResolveBlocks(Pass):
    """Fills in the default of every block parameter that the spec leaves out.

    1. Stem, node blocks and head get all parameters of their kind, sorted by name.
    2. Unknown kinds and parameters were refused when the spec was verified.
    """

    name: ClassVar[str] = "resolve-blocks"

    def run(self, graph: NetworkGraph, report: Report) -> NetworkGraph:
        return replace(
            graph,
            stem=complete(graph.stem, CATALOGUE.stems[graph.stem.kind]),
            stages=tuple(
                replace(stage, nodes=tuple(map(complete_node, stage.nodes)))
                for stage in graph.stages
            ),
            head=complete(graph.head, CATALOGUE.heads[graph.head.kind]),
        )


def complete(call: BlockCall, entry: Entry) -> BlockCall:
    """The call with every parameter of its kind."""
    return replace(call, params=tuple(sorted(entry.complete(dict(call.params)).items())))


def complete_node(node: Node) -> Node:
    """The node with its block's parameters complete."""
    if node.block is None:
        return node
    return replace(node, block=complete(node.block, CATALOGUE.blocks[node.block.kind]))
