"""`graphc inspect`: the graph after any pass, or the code that runs, as text."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from compiler.cli._arguments import json_option, read_graph, set_option, spec_argument
from compiler.cli._output import SCHEMA_VERSION, json_text, print_table

if TYPE_CHECKING:
    from graphspec import NetworkGraph, StageGraph

BUILT = "build"
"""What `--after` calls the graph that no pass has seen."""


@click.command(
    epilog="""\b
Examples:
  graphc inspect my.yaml
  graphc inspect my.yaml --stage layer2 --as mermaid
  graphc inspect my.yaml --after build --as json
  graphc inspect my.yaml --stage layer2 --as code
"""
)
@spec_argument
@set_option
@click.option("--stage", metavar="NAME", help="This stage alone.")
@click.option(
    "--after", metavar="PASS", help="Stop after this pass; `build`: before all.  [default: all]"
)
@click.option(
    "--as",
    "form",
    type=click.Choice(["table", "code", "json", "dot", "mermaid"]),
    default="table",
    show_default=True,
    help="code: the Python that torch.fx runs.",
)
@json_option
def command(
    spec: str,
    overrides: tuple[str, ...],
    stage: str | None,
    after: str | None,
    form: str,
    as_json: bool,
) -> None:
    """Prints the graph of SPEC: nodes, edges, blocks and shapes. --json is --as json."""
    from compiler.passes import PIPELINE

    form = "json" if as_json else form
    if after is not None and after not in (BUILT, *PIPELINE):
        known = ", ".join((BUILT, *PIPELINE))
        raise click.UsageError(f"no pass {after!r} in the pipeline (known: {known})")
    passes = PIPELINE[: 0 if after == BUILT else PIPELINE.index(after) + 1] if after else PIPELINE
    if form == "code" and passes != PIPELINE:
        raise click.UsageError("--as code is what runs after all passes; leave out --after")
    _, graph = read_graph(spec, overrides, passes)
    names = [each.name for each in graph.stages]
    if stage is not None and stage not in names:
        raise click.UsageError(f"no stage {stage!r} (known: {', '.join(names)})")
    if stage is not None and form != "code":
        graph = replace(graph, stages=tuple(s for s in graph.stages if s.name == stage))
    match form:
        case "code":
            click.echo(_code(graph, stage), nl=False)
        case "json":
            from compiler.graph_data import graph_data, stage_data

            is_whole = stage is None
            data = graph_data(graph) if is_whole else stage_data(graph.stages[0])
            click.echo(json_text({"schema_version": SCHEMA_VERSION, **data}), nl=False)
        case "dot" | "mermaid":
            from compiler.drawing.dot import to_dot, to_mermaid

            click.echo((to_dot if form == "dot" else to_mermaid)(graph, stage is None), nl=False)
        case _:
            for each in graph.stages:
                _print_stage(each)


def _code(graph: NetworkGraph, stage: str | None) -> str:
    import torch

    from compiler.listing import code_listing
    from compiler.lower import lower

    with torch.device("meta"):
        model = lower(graph)
    return code_listing(model, [stage] if stage else None)


def _print_stage(stage: StageGraph) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from compiler.drawing.panel import block_text, shape_text

    table = Table(
        title=f"{stage.name}  (from {', '.join(stage.inputs)})",
        title_justify="left",
        box=SIMPLE_HEAD,
    )
    for column in ("node", "gathers", "from", "weights", "block", "stride", "out", "router"):
        table.add_column(column, overflow="fold")
    for index, node in enumerate(stage.nodes):
        edges = stage.sources_of(index)
        weights = dict.fromkeys(edge.weights.kind for edge in edges)
        table.add_row(
            f"{stage.name}.{node.name}",
            node.aggregate if len(edges) > 1 else "",
            _ranges(stage, [edge.source for edge in edges]),
            ", ".join(weights),
            block_text(node.block) if node.block else "",
            str(node.stride),
            shape_text(node.out_shape),
            f"{node.router.kind} → {len(node.router.targets)}" if node.router else "",
        )
    print_table(table)


def _ranges(stage: StageGraph, sources: list[int]) -> str:
    """Node names, with three or more neighbours written as first … last."""
    runs: list[list[int]] = []
    for source in sources:
        if runs and source == runs[-1][-1] + 1:
            runs[-1].append(source)
        else:
            runs.append([source])
    parts: list[str] = []
    for run in runs:
        names = [stage.nodes[source].name for source in run]
        parts += [f"{names[0]} … {names[-1]}"] if len(run) > 2 else names
    return ", ".join(parts)
