"""The pass `forbid-wide-nodes`: name it after graphc's own to have it run.

Example:
    >>> analyze(spec, passes=(*PIPELINE, "forbid-wide-nodes"))
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from compiler.passes import Pass
from graphspec import NetworkGraph, Report


@dataclass(frozen=True)
class ForbidWideNodes(Pass):
    """Refuses nodes of more channels than `limit`."""

    name: ClassVar[str] = "forbid-wide-nodes"
    limit: int = 1024

    def run(self, graph: NetworkGraph, report: Report) -> NetworkGraph:
        for stage in graph.stages:
            for node in stage.nodes:
                if node.width is not None and node.width > self.limit:
                    report.error("node-too-wide", node.path, f"{node.width} channels", "use fewer")
        return graph
