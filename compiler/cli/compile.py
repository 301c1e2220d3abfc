"""`graphc compile`: a folder with everything the compiler knows about a network."""

from __future__ import annotations

from pathlib import Path

import click

from compiler.cli._arguments import (
    json_option,
    output_option,
    read_graph,
    read_run,
    set_option,
)
from compiler.cli._output import check_output_folder, print_json

MANIFEST = "manifest.json"


@click.command(
    epilog="""\b
Files:
  spec.resolved.yaml   every draw replaced by edges, every default filled in
  graph.json           nodes and edges with their shapes
  graph.txt            the same, for people
  fx.txt               the torch.fx nodes of every stage
  code.txt             the Python that runs, stage by stage
  cost.json, cost.txt  parameters, multiply-adds, activations
  graph.svg            the picture
  manifest.json        the spec's hash, versions, the files' hashes

\b
Example:
  graphc compile my.yaml -o build/my
  graphc compile my.yaml --emit source -o build/my
  graphc compile runs/my-1a2b3c4d --emit source -o build/my    with trained weights
"""
)
@click.argument("source", metavar="SPEC|RUN", type=click.Path(exists=True, path_type=Path))
@set_option
@output_option("DIR", "Folder to write; may replace an earlier output.")
@click.option(
    "--emit",
    "backends",
    multiple=True,
    type=click.Choice(["source"]),
    help="Also write network.py, which needs torch alone, and its weights.",
)
@json_option
def command(
    source: Path,
    overrides: tuple[str, ...],
    output: Path,
    backends: tuple[str, ...],
    as_json: bool,
) -> None:
    """Compiles SPEC, or the spec of a RUN, and writes what came out to DIR, all or nothing."""
    check_output_folder(output, MANIFEST)
    model = None
    if source.is_dir():
        spec, graph, model = read_run(source, overrides)
    else:
        spec, graph = read_graph(str(source), overrides)
    if backends and model is None:
        click.echo(f"note: {source} is a spec: its weights are initial, not trained", err=True)

    from compiler.cli._artifact import write_artifact

    manifest = write_artifact(spec, graph, output, MANIFEST, backends, model)
    if as_json:
        print_json({"output": str(output), **manifest})
        return
    for name in sorted([*manifest["files"], MANIFEST]):
        click.echo(output / name)
