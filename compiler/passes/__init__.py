"""The passes on `NetworkGraph`, one file each; file name = pass name.

Passes of other packages come in through the entry-point group `graphc.passes`.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Sequence
from importlib import import_module

from compiler.passes._base import PASSES as PASSES
from compiler.passes._base import Pass as Pass
from graphspec import NetworkGraph, Report
from graphspec.registry import plugins

for _module in pkgutil.iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
for _, _plugin in plugins("graphc.passes"):
    PASSES.register(_plugin)

PIPELINE = ("resolve-blocks", "prune-dead-nodes", "infer-shapes", "place-routers")
"""Every network goes through these passes, in this order."""


def run(graph: NetworkGraph, report: Report, *, passes: Sequence[str] = PIPELINE) -> NetworkGraph:
    """The graph after `passes`; stops after the first pass that reports an error.

    Raises:
        SpecError: when a pass found the spec wrong.
    """
    for name in passes:
        graph = PASSES[name]().run(graph, report)
        report.raise_errors()
    return graph
