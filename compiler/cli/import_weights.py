"""`graphc import-weights`: a reference's weights in the network of a spec, and back."""

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
from compiler.cli._output import print_json


@click.command(
    epilog="""\b
Examples:
  graphc import-weights examples/resnet50.yaml --from resnet50.pth -o resnet50.safetensors
  graphc import-weights examples/dgnet_resnet50.yaml --from resnet50.pth -o start.safetensors
  graphc import-weights examples/resnet50.yaml --from runs/resnet50/weights.safetensors \\
      --to torchvision:resnet50 -o resnet50.pth
"""
)
@spec_argument
@click.option(
    "--from",
    "source",
    required=True,
    metavar="REFERENCE",
    help="FILE of weights, or torchvision:NAME or timm:NAME with random weights (no download).",
)
@click.option(
    "--to",
    metavar="LIBRARY:NAME",
    help="Write the weights as torchvision:NAME or timm:NAME loads them strictly.",
)
@output_option("FILE", "Where to write: .safetensors, or .pth for a pickled state_dict.")
@set_option
@json_option
def command(
    spec: str,
    source: str,
    to: str | None,
    output: Path,
    overrides: tuple[str, ...],
    as_json: bool,
) -> int:
    """Copies weights into the network of SPEC by a rule per block, and writes them.

    A dynamic network takes what its static twin has; what was not copied is listed. Exits with
    1, naming the tensors, if they do not fit.
    """
    if output.suffix not in (".safetensors", ".pth"):
        raise click.UsageError(f"{output}: weights are written as .safetensors or .pth")

    from compiler import compile
    from compiler.files import replacing
    from compiler.transfer import WeightsError, export_weights, import_weights
    from graphspec import content_hash

    loaded, _ = read_graph(spec, overrides)
    model = compile(loaded)
    try:
        transfer = import_weights(model, loaded, source)
        tensors = export_weights(model, loaded, to) if to else model.state_dict()
    except WeightsError as error:
        click.echo(f"error: {error}", err=True)
        return 1
    with replacing(output) as temporary:
        if output.suffix == ".pth":
            import torch

            torch.save(tensors, temporary)
        else:
            from safetensors.torch import save_file

            save_file(tensors, temporary, metadata={"spec_hash": content_hash(loaded)})
    if as_json:
        print_json(
            {
                "file": str(output),
                "copied": dict(transfer.copied),
                "fresh": list(transfer.fresh),
                "unused": list(transfer.unused),
            }
        )
    else:
        click.echo(transfer.summary())
    return 0
