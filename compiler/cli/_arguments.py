"""The arguments that verbs share, and how they read a spec."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from compiler.cli._output import print_findings
from compiler.files import RESOLVED_SPEC

if TYPE_CHECKING:
    from torch import fx

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


def read_run(
    folder: Path, overrides: Sequence[str]
) -> tuple[NetworkSpec, NetworkGraph, fx.GraphModule]:
    """The spec, the graph and the trained network of a run; says on stderr what images it takes.

    Raises:
        UsageError: the folder is no run of a network, or the spec of one was to be changed.
    """
    if overrides:
        raise click.UsageError("--set changes a SPEC; the network of a RUN is trained already")
    if not (folder / RESOLVED_SPEC).is_file():
        raise click.UsageError(f"{folder} is no run folder: it has no {RESOLVED_SPEC}")
    spec, graph = read_graph(str(folder / RESOLVED_SPEC), ())

    from compiler.training.runs import load_network, read_manifest
    from runtime.training.errors import StorageError

    try:
        model = load_network(folder)
        manifest = read_manifest(folder) if (folder / "run.json").exists() else {}
    except StorageError as error:
        raise click.UsageError(str(error)) from error
    if seen := manifest.get("normalization"):
        mean, std = (", ".join(f"{value:.6g}" for value in seen[key]) for key in ("mean", "std"))
        is_scaled = seen["scale"] != 1
        values = f"pixels / {1 / seen['scale']:g}" if is_scaled else "values as the data have them"
        click.echo(
            f"note: trained on ({values} - mean) / std, mean [{mean}], std [{std}]; give the same",
            err=True,
        )
    return spec, graph, model
