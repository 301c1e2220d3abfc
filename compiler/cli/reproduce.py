"""`graphc reproduce`: the tables of the DG-Net paper, its figures beside ours."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compiler.cli._arguments import json_option
from compiler.cli._output import print_json, print_table
from compiler.cli.sample import Seeds

if TYPE_CHECKING:
    from compiler.paper import Cell, Row, Table

LATENCIES = "Latency of DG-MobileNetV2"
NAMES = ("table1", "table2", "table3", "table4", "table5")


@click.command(
    epilog="""\b
Examples:
  graphc reproduce                      what there is, and what it needs
  graphc reproduce table1
  graphc reproduce table4 --seeds 0-4 --json
  graphc reproduce table3 --run runs/RUN
"""
)
@click.argument("name", required=False, type=click.Choice(NAMES))
@click.option(
    "--seeds",
    type=Seeds(),
    default="0-19",
    show_default=True,
    help="Of the random wirings of table4: 0-19, or 0-4,7.",
)
@click.option(
    "--run",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="For table3: a trained DG-MobileNetV2, whose routes are timed.",
)
@click.option("--device", default="cpu", show_default=True, help="For table3.")
@click.option("--compile", "is_compiled", is_flag=True, help="For table3: torch.compile, too.")
@json_option
def command(
    name: str | None,
    seeds: tuple[int, ...],
    run: Path | None,
    device: str,
    is_compiled: bool,
    as_json: bool,
) -> int:
    """Prints a table of the paper: its figures, ours, and the difference of each cell.

    Exits with 1 if a cell differs that the paper supports. Table 3 is of latencies, which are
    measured.
    """
    if name == "table3":
        from compiler.cli._latency import table3

        table3(run, device, is_compiled=is_compiled, as_json=as_json)
        return 0
    from compiler.paper import TABLES

    if name is None:
        _list(as_json)
        return 0
    table = TABLES[name]
    rows = list(table.rows(seeds))
    cells = [cell for row in rows for _, cell in row.cells]
    if as_json:
        print_json(_as_data(table, rows))
    else:
        _print(table, rows)
    return 1 if any(cell.agrees is False and not cell.note for cell in cells) else 0


def _list(as_json: bool) -> None:
    from compiler.paper import TABLES, TRAINING_ONLY

    here = {name: table.title for name, table in TABLES.items()} | {"table3": LATENCIES}
    training = {name: table.training for name, table in TABLES.items()}
    training |= {name: commands for name, (_, commands) in TRAINING_ONLY.items()}
    if as_json:
        print_json({"here": here, "training": training})
        return
    click.echo("Costs, counted here in seconds, and latencies, measured in a minute:")
    for name, title in here.items():
        click.echo(f"  graphc reproduce {name}    {title}")
    click.echo("\nAccuracies, which need the data and GPUs:")
    titles = here | {name: title for name, (title, _) in TRAINING_ONLY.items()}
    for name, commands in training.items():
        click.echo(f"\n  {name}: {titles[name]}")
        for text in commands:
            click.echo(f"    {text}")


def _as_data(table: Table, rows: list[Row]) -> dict[str, Any]:
    return {
        "name": table.name,
        "rules": list(table.rules),
        "rows": [
            {
                "network": row.network,
                "spec": row.spec,
                "cells": {
                    column: {
                        "paper": cell.paper,
                        "ours": cell.ours,
                        "difference": cell.difference,
                        "agrees": cell.agrees,
                        "note": cell.note or None,
                    }
                    for column, cell in row.cells
                },
            }
            for row in rows
        ],
    }


def _print(table: Table, rows: list[Row]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as RichTable

    printed = RichTable(title=f"{table.name}: {table.title}", title_justify="left", box=SIMPLE_HEAD)
    printed.add_column("network")
    compared = {column for row in rows for column, cell in row.cells if cell.paper is not None}
    for column, _ in rows[0].cells:
        headers = ("{}, paper", "ours", "differs") if column in compared else ("{}",)
        for header in headers:
            printed.add_column(header.format(column), justify="right")
    notes: list[str] = []
    for row in rows:
        cells = [text for column, cell in row.cells for text in _cells(column, cell, row, notes)]
        printed.add_row(row.network, *cells)
    for rule in table.rules:
        click.echo(rule)
    click.echo("")
    print_table(printed)
    for note in notes:
        click.echo(note)


def _cells(column: str, cell: Cell, row: Row, notes: list[str]) -> list[str]:
    digits = cell.digits + 1
    ours = f"{cell.ours:,.{digits}f}"
    if cell.paper is None or cell.difference is None:
        return [ours]
    mark = ""
    if cell.note and not cell.agrees:
        notes.append(f"* {row.network}, {column}: {cell.note}")
        mark = " *"
    return [f"{cell.paper:,.{cell.digits}f}{mark}", ours, f"{cell.difference:+.{digits}f}"]
