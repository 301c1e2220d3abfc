"""What each node costs, in the form in which the runtime weighs open edges and living nodes."""

from __future__ import annotations

from compiler.complexity import count
from graphspec import NetworkGraph, NetworkSpec
from runtime.routes import NodeMacs


def node_macs(network: NetworkSpec | NetworkGraph) -> tuple[dict[str, dict[str, NodeMacs]], int]:
    """Multiply-adds by stage and node, and those of the whole network."""
    complexity = count(network)
    macs: dict[str, dict[str, NodeMacs]] = {}
    for row in complexity.rows:
        nodes = macs.setdefault(row.stage, {})
        before = nodes.get(row.node, NodeMacs(0, 0))
        if row.part == "aggregate":
            nodes[row.node] = before._replace(gathering=before.gathering + row.macs)
        else:
            nodes[row.node] = before._replace(computing=before.computing + row.macs)
    return macs, complexity.macs
