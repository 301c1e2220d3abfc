"""From a spec to a checked graph with shapes. No torch: `graphc check` is this."""

from __future__ import annotations

from collections.abc import Sequence

from compiler import passes as _passes
from graphspec import Diagnostic, NetworkGraph, NetworkSpec, Report, build


def analyze(
    spec: NetworkSpec, *, passes: Sequence[str] = _passes.PIPELINE
) -> tuple[NetworkGraph, tuple[Diagnostic, ...]]:
    """The graph of a spec after `passes`, and the warnings met on the way.

    Raises:
        SpecError: with every finding, when the spec is wrong.
    """
    report = Report(spec.locate)
    graph = _passes.run(build(spec), report, passes=passes)
    return graph, report.warnings
