"""The arguments that verbs share, and how they read a spec."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from compiler.cli._output import print_findings

if TYPE_CHECKING:
    from graphspec import NetworkGraph, NetworkSpec

F = TypeVar("F", bound=Callable[..., Any])

SPEC_FILE = click.Path(exists=True, dir_okay=False, readable=True)


def spec_argument(function: F) -> F:
    """The argument SPEC."""
    return click.argument("spec", type=SPEC_FILE)(function)


def set_option(function: F) -> F:
    """The option `--set`."""
    return click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="PATH=VALUE",
        help="Change the spec before it is read, e.g. stages.layer2.depth=6. Repeatable.",
    )(function)


def json_option(function: F) -> F:
    """The option `--json`."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print one JSON object instead of text."
    )(function)


def output_option(metavar: str, description: str) -> Callable[[F], F]:
    """The option `-o`."""
    return click.option(
        "-o",
        "--output",
        required=True,
        metavar=metavar,
        type=click.Path(path_type=Path),
        help=description,
    )


def read_graph(
    file: str, overrides: Sequence[str], passes: Sequence[str] | None = None
) -> tuple[NetworkSpec, NetworkGraph]:
    """A spec and its graph after all passes (or the given ones); warnings go to stderr.

    Raises:
        SpecError: the spec is wrong.
    """
    from compiler.analysis import analyze
    from graphspec import load

    spec = load(file, overrides=overrides)
    graph, warnings = analyze(spec) if passes is None else analyze(spec, passes=passes)
    print_findings(warnings)
    return spec, graph
