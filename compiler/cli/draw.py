"""`graphc draw`: a picture of the network as SVG, PNG or one HTML page."""

from __future__ import annotations

from pathlib import Path

import click

from compiler.cli._arguments import output_option, read_graph, set_option, spec_argument


@click.command(
    epilog="""\b
Examples:
  graphc draw my.yaml -o my.svg
  graphc draw my.yaml -o my.html          point at a node: its edges stand out
  graphc draw my.yaml -o my.png --set stages.layer2.wiring=complete
"""
)
@spec_argument
@set_option
@output_option("FILE", "The picture: FILE.svg, FILE.png or FILE.html.")
def command(spec: str, overrides: tuple[str, ...], output: Path) -> None:
    """Draws the network of SPEC.

    Stages where one path visits nearly every node are drawn as arcs beside their matrix, chains
    as rows, all others in layers from left to right.
    """
    from compiler.drawing import FORMATS, draw

    if output.suffix not in FORMATS:
        raise click.UsageError(f"cannot draw {output.name!r}: use one of {', '.join(FORMATS)}")
    _, graph = read_graph(spec, overrides)
    draw(graph, output)
    click.echo(f"wrote {output}", err=True)
