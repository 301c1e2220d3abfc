"""`graphc compile`: a folder with everything the compiler knows about a network."""

from __future__ import annotations

from pathlib import Path

import click

from compiler.cli._arguments import (
    json_option,
    output_option,
    read_graph,
    set_option,
    spec_argument,
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
"""
)
@spec_argument
@set_option
@output_option("DIR", "Folder to write; may replace an earlier output.")
@click.option(
    "--emit",
    "backends",
    multiple=True,
    type=click.Choice(["source"]),
    help="Also write network.py, which needs torch alone, and its initial weights.",
)
@json_option
def command(
    spec: str,
    overrides: tuple[str, ...],
    output: Path,
    backends: tuple[str, ...],
    as_json: bool,
) -> None:
    """Compiles SPEC and writes what came out to DIR, all of it or nothing."""
    check_output_folder(output, MANIFEST)
    loaded, graph = read_graph(spec, overrides)

    from compiler.cli._artifact import write_artifact

    manifest = write_artifact(loaded, graph, output, MANIFEST, backends)
    if as_json:
        print_json({"output": str(output), **manifest})
        return
    for name in sorted([*manifest["files"], MANIFEST]):
        click.echo(output / name)
