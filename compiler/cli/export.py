"""`graphc export`: a network as a torch.export program, an ONNX model or machine code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from compiler.cli._arguments import json_option, output_option, read_graph, read_run, set_option
from compiler.cli._output import print_json

if TYPE_CHECKING:
    from torch import fx

    from graphspec import NetworkGraph, NetworkSpec


@click.command(
    epilog="""\b
Formats:
  exported   torch.export: a .pt2 file that torch.export.load reads
  onnx       an .onnx file; needs pip install 'graphc-nn[export]'
  aoti       AOTInductor: machine code in a .pt2 package; needs a C++ compiler

\b
Examples:
  graphc export runs/dgnet_digits-1a2b3c4d --to onnx -o digits.onnx
  graphc export my.yaml --to exported -o my.pt2
"""
)
@click.argument("source", metavar="RUN|SPEC", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--to",
    "backend",
    required=True,
    type=click.Choice(["exported", "onnx", "aoti"]),
    help="What to write.",
)
@output_option("FILE", "File to write; may replace an earlier one.")
@click.option(
    "--mode",
    type=click.Choice(["masked", "soft", "sparse"]),
    default="masked",
    show_default=True,
    help="masked: closed edges weigh 0; soft: the training weights, no edge closed.",
)
@click.option(
    "--rule",
    type=click.Choice(["consistent", "literal"]),
    help="What open edges weigh in masked mode.  [default: the spec's]",
)
@set_option
@json_option
def command(
    source: Path,
    backend: str,
    output: Path,
    mode: Literal["soft", "masked", "sparse"],
    rule: Literal["consistent", "literal"] | None,
    overrides: tuple[str, ...],
    as_json: bool,
) -> int:
    """Writes the trained network of the folder RUN, or that of SPEC with initial weights.

    Batches may have any size, and so may images where the network allows it. The file is run and
    compared with the network before it takes its place.
    """
    if output.is_dir():
        raise click.UsageError(f"{output} is a folder; name a file")
    spec, graph, model = _read(source, overrides)

    from compiler.backends import BACKENDS, EmitError
    from compiler.backends._export import ExportBackend, MissingToolError

    form = BACKENDS[backend]
    assert issubclass(form, ExportBackend)
    try:
        export = form(mode=mode, rule=rule).export(spec, graph, model, output)
    except MissingToolError as error:
        click.echo(f"error: {error}", err=True)
        return 2
    except EmitError as error:
        click.echo(f"error: {error}", err=True)
        return 1
    if as_json:
        print_json(
            {
                "file": str(output),
                "format": backend,
                "bytes": output.stat().st_size,
                "dynamic": list(export.dynamic),
                "max_difference": export.difference,
            }
        )
        return 0
    parity = (
        "not compared: pip install onnxruntime"
        if export.difference is None
        else f"at most {export.difference:.0e} from eager"
    )
    click.echo(f"{output}: {backend}, any {', '.join(export.dynamic)}, {parity}")
    return 0


def _read(
    source: Path, overrides: tuple[str, ...]
) -> tuple[NetworkSpec, NetworkGraph, fx.GraphModule]:
    """The network of a run folder or of a spec file."""
    if source.is_dir():
        return read_run(source, overrides)
    spec, graph = read_graph(str(source), overrides)

    import torch

    from compiler import compile

    torch.manual_seed(0)  # the same spec gives the same file
    click.echo(f"note: {source} is a spec: its weights are initial, not trained", err=True)
    return spec, graph, compile(spec, device="cpu")
