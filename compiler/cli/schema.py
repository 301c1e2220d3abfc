"""`graphc schema`: prints the JSON Schema of spec files, for editors."""

from __future__ import annotations

import click

from compiler.cli._output import json_text


@click.command(
    epilog="""\b
Example:
  graphc schema > graphc.schema.json
  # then, as the first line of a spec:
  # yaml-language-server: $schema=graphc.schema.json
"""
)
def command() -> None:
    """Prints the JSON Schema of spec files: an editor completes and checks with it."""
    from graphspec import json_schema

    click.echo(json_text(json_schema()), nl=False)
