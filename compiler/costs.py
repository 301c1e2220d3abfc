"""The cost of a network as data and as a table: node by node, with the sums of stages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from compiler.complexity import Complexity, Cost

_FIELDS = ("params", "conv_macs", "macs", "activations")


def cost_data(complexity: Complexity) -> dict[str, Any]:
    """The totals, and below them every stage with its nodes."""
    from compiler.complexity import RULE

    return {
        "name": complexity.name,
        "input_shape": list(complexity.input_shape),
        "rule": RULE,
        **_sums(complexity.rows),
        "stages": [
            {
                "name": stage,
                **_sums(rows),
                "nodes": [
                    {"name": name, **_sums(parts), "parts": _parts(parts)}
                    for name, parts in _by_node(rows).items()
                ],
            }
            for stage, rows in _by_stage(complexity.rows).items()
        ],
    }


def cost_table(complexity: Complexity) -> Table:
    """One line a node, one a stage, one for all."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    size = " × ".join(map(str, complexity.input_shape))
    table = Table(
        title=f"{complexity.name}, one sample of {size}",
        title_justify="left",
        box=SIMPLE_HEAD,
        show_footer=True,
    )
    total = _sums(complexity.rows)
    table.add_column("part", footer=complexity.name)
    for field in _FIELDS:
        header = {"conv_macs": "conv MACs", "macs": "MACs"}.get(field, field)
        table.add_column(header, footer=f"{total[field]:,}", justify="right")
    for stage, rows in _by_stage(complexity.rows).items():
        table.add_row(stage, *_cells(rows), style="bold")
        nodes = _by_node(rows)
        if list(nodes) != [stage]:
            for name, parts in nodes.items():
                table.add_row(f"  {name}", *_cells(parts))
        table.add_section()
    return table


def _sums(rows: Iterable[Cost]) -> dict[str, int]:
    rows = tuple(rows)
    return {field: sum(getattr(row, field) for row in rows) for field in _FIELDS}


def _cells(rows: Iterable[Cost]) -> list[str]:
    return [f"{value:,}" for value in _sums(rows).values()]


def _parts(rows: Iterable[Cost]) -> dict[str, dict[str, int]]:
    return {row.part: _sums([row]) for row in rows}


def _by_stage(rows: Iterable[Cost]) -> dict[str, list[Cost]]:
    groups: dict[str, list[Cost]] = {}
    for row in rows:
        groups.setdefault(row.stage, []).append(row)
    return groups


def _by_node(rows: Iterable[Cost]) -> dict[str, list[Cost]]:
    """Rows by full name; what belongs to a stage as a whole goes by its parts' name."""
    groups: dict[str, list[Cost]] = {}
    for row in rows:
        name = row.name if row.node or row.part == "block" else f"{row.stage}.{row.part}"
        groups.setdefault(name, []).append(row)
    return groups
