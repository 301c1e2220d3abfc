"""`graphc count`: parameters, multiply-adds and activations, by stage and node."""

from __future__ import annotations

import click

from compiler.cli._arguments import json_option, read_graph, set_option, spec_argument
from compiler.cli._output import print_json, print_table


@click.command(
    epilog="""\b
Examples:
  graphc count my.yaml
  graphc count my.yaml --json | jq .conv_macs
"""
)
@spec_argument
@set_option
@json_option
def command(spec: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Counts what the network of SPEC costs for one sample.

    conv MACs: convolutions alone, as papers count. MACs: convolutions, linear layers, routers,
    and 1 per element that a weighted sum reads. Activations: elements of convolution outputs.
    """
    _, graph = read_graph(spec, overrides)

    from compiler.complexity import count
    from compiler.costs import cost_data, cost_table

    complexity = count(graph)
    if as_json:
        print_json(cost_data(complexity))
        return
    print_table(cost_table(complexity))
