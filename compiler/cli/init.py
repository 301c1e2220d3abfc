"""`graphc init`: writes a commented spec to start from."""

from __future__ import annotations

from pathlib import Path

import click

STARTER = """\
# yaml-language-server: $schema=graphc.schema.json
# (`graphc schema > graphc.schema.json` writes that file; an editor then completes kinds and keys)
#
# A small dynamic network (DG-Net) for the 8x8 digits that scikit-learn ships. Try:
#   graphc check FILE      graphc draw FILE -o picture.svg      graphc count FILE
#   graphc train FILE      graphc train FILE --set stages.layer2.depth=6
version: 1
name: my_network
seed: 0                      # random wirings are drawn from this and the stage's name
input_shape: [1, 8, 8]       # channels, height, width

stem: {kind: conv_bn_relu, width: 16}

# What all stages say, unless they say something else.
stage_defaults:
  # How nodes are joined: chain, residual, complete, {kind: er, p: 0.2}, {kind: ba, m: 5},
  # {kind: ws, k: 4, p: 0.75}, or {kind: explicit, edges: [[input, n1], [n1, output]]}.
  wiring: complete
  # What an edge weighs: fixed; learned (one weight, the same for all samples); or routed
  # (each node's router predicts the weights of its output edges for every sample).
  edge_weights: {kind: routed, bias_init: 3.0, threshold: 0.0}
  # What a node computes. Edges are the shortcuts here, so blocks need none of their own.
  block: {kind: basic, shortcut: false}

stages:
  - name: layer1
    depth: 3                 # block nodes n1 n2 n3; input and output node come on top
    width: 16                # channels of every node
    input_node: {kind: conv_bn_relu, kernel: 1}
  - name: layer2
    depth: 4
    width: 32
    stride: 2                # taken by the input node, since it is a block
    input_node: basic
    nodes:                   # what single nodes do differently
      n4: {kind: conv_bn_relu}

head: {kind: pooled_linear, num_classes: 10}
"""


@click.command(
    epilog="""\b
Example:
  graphc init my.yaml && graphc check my.yaml && graphc train my.yaml
"""
)
@click.argument(
    "file", type=click.Path(dir_okay=False, path_type=Path), default=Path("network.yaml")
)
def command(file: Path) -> None:
    """Writes a starter spec to FILE (default: network.yaml). Never overwrites a file."""
    from compiler.files import replacing

    if file.exists():
        raise click.UsageError(f"{file} is there already; name another file, or remove it first")
    with replacing(file) as temporary:
        temporary.write_text(STARTER.replace("FILE", str(file)), encoding="utf-8")
    click.echo(f"wrote {file}; next: graphc check {file}", err=True)
