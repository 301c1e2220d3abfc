"""How verbs say what they found, and where they may write."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.table import Table

    from graphspec import Diagnostic

SCHEMA_VERSION = 1
"""Of the objects that `--json` prints; raised when a key changes its meaning or goes."""


def print_findings(findings: Iterable[Diagnostic]) -> None:
    """Shows findings on stderr."""
    from compiler.cli import colors_stderr
    from graphspec import render

    findings = tuple(findings)
    if findings:
        click.echo(render(findings, color=colors_stderr()), err=True)


def print_json(content: Mapping[str, Any]) -> None:
    """One object on stdout, with the version of its schema first."""
    click.echo(json_text({"schema_version": SCHEMA_VERSION, **content}), nl=False)


def json_text(content: Any) -> str:
    """JSON as it is written to stdout and into files."""
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def figures_text(figures: Mapping[str, float]) -> str:
    """The figures of a network on test data, on one line."""
    if "accuracy" in figures:
        return f"test accuracy {figures['accuracy']:.2%}"
    return "  ".join(f"{name} {ap_text(figures[name])}" for name in ("AP", "AP50", "AP75"))


def ap_text(value: float) -> str:
    """An average precision in percent, as papers print it; COCO's -1 means: nothing to find."""
    return "none" if value < 0 else f"{value:.1%}"


def print_table(table: Table) -> None:
    """A table on stdout: coloured on a terminal only, and never cut where there is none."""
    from rich.console import Console

    console = Console(highlight=False)
    if console.is_terminal:
        console.print(table)
    else:
        click.echo(render_table(table), nl=False)


def render_table(table: Table) -> str:
    """A table as plain text, for a file."""
    from io import StringIO

    from rich.console import Console

    file = StringIO()
    Console(file=file, width=_natural_width(table), color_system=None).print(table)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"


def _natural_width(table: Table) -> int:
    from rich.console import Console

    return Console(width=10_000).measure(table).maximum


def check_output_folder(folder: Path, marker: str) -> None:
    """Refuses a folder that holds other things than an earlier output, known by `marker`.

    Raises:
        UsageError: what is there would be lost.
    """
    folder = folder.absolute()
    if folder == Path.cwd() or folder in Path.cwd().parents:
        raise click.UsageError(f"{folder} is the current folder or holds it; name a new folder")
    if folder.exists() and not folder.is_dir():
        raise click.UsageError(f"{folder} is a file; name a new folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / marker).is_file():
        raise click.UsageError(
            f"{folder} holds files that this verb did not write; name a new folder"
        )
