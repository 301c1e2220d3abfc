"""`graphc check`: says everything that is wrong with specs; imports no torch."""

from __future__ import annotations

from typing import Any

import click

from compiler.cli._arguments import SPEC_FILE, json_option, set_option
from compiler.cli._output import print_findings, print_json


@click.command(
    epilog="""\b
Examples:
  graphc check my.yaml
  graphc check examples/*.yaml --json
  graphc check my.yaml --set stages.layer2.depth=6
"""
)
@click.argument("specs", nargs=-1, required=True, type=SPEC_FILE, metavar="SPEC...")
@set_option
@json_option
def command(specs: tuple[str, ...], overrides: tuple[str, ...], as_json: bool) -> int:
    """Checks one or more specs: syntax, names, rules, wiring, channels and shapes.

    Findings go to stderr. Exits with 1 if a spec is wrong; warnings alone are fine.
    """
    from compiler.analysis import analyze
    from graphspec import NetworkGraph, SpecError, load

    reports: list[dict[str, Any]] = []
    for file in specs:
        graph: NetworkGraph | None = None
        try:
            graph, findings = analyze(load(file, overrides=overrides))
        except SpecError as error:
            findings = error.diagnostics
        nodes = sum(len(stage.nodes) for stage in graph.stages) if graph else None
        edges = sum(len(stage.edges) for stage in graph.stages) if graph else None
        reports.append(
            {
                "file": file,
                "ok": graph is not None,
                "name": graph.name if graph else None,
                "stages": len(graph.stages) if graph else None,
                "nodes": nodes,
                "edges": edges,
                "diagnostics": [finding.to_dict() for finding in findings],
            }
        )
        if not as_json:
            print_findings(findings)
            if graph:
                click.echo(f"{file}: ok, {len(graph.stages)} stages, {nodes} nodes, {edges} edges")
    is_fine = all(report["ok"] for report in reports)
    if as_json:
        print_json({"ok": is_fine, "files": reports})
    return 0 if is_fine else 1
