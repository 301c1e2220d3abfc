"""From a spec to a checked graph with shapes. No torch: `graphc check` is this."""

from __future__ import annotations

from collections.abc import Sequence

from compiler.passes import PIPELINE, run
from graphspec import Diagnostic, NetworkGraph, NetworkSpec, Report, build


def analyze(
    spec: NetworkSpec, *, passes: Sequence[str] = PIPELINE
) -> tuple[NetworkGraph, tuple[Diagnostic, ...]]:
    """The graph of a spec after `passes`, and the warnings met on the way.

    Raises:
        SpecError: with every finding, when the spec is wrong.
    """
    report = Report(spec.provenance)
    graph = run(build(spec, report), report, passes=passes)
    return graph, report.warnings
