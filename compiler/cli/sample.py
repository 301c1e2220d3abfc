"""`graphc sample`: one resolved spec a seed, with a table of what each costs."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compiler.cli._arguments import json_option, output_option, set_option, spec_argument
from compiler.cli._output import check_output_folder, json_text, print_findings, print_json

if TYPE_CHECKING:
    from graphspec import NetworkSpec

TABLE = "samples.json"
_RANGE = re.compile(r"(\d+)(?:-(\d+))?")
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)([kKmMgG]?)")
_COLUMNS = ("seed", "file", "width", "nodes", "edges", "params", "conv_macs", "macs")
MAX_SEEDS = 10_000
TOLERANCE = 0.05
"""Of the conv MACs that were asked for; beyond it the user hears of it."""


class Seeds(click.ParamType):
    """`0-9`, `3`, or `0-4,7,12`."""

    name = "seeds"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        seeds: list[int] = []
        for part in str(value).split(","):
            match = _RANGE.fullmatch(part.strip())
            if match is None:
                self.fail(f"{part!r} is no seed and no range; write 0-9 or 0-4,7", param, ctx)
            first, last = int(match[1]), int(match[2] or match[1])
            if last < first or last - first >= MAX_SEEDS:
                self.fail(f"{part!r} holds no seeds, or more than {MAX_SEEDS}", param, ctx)
            seeds.extend(range(first, last + 1))
        return tuple(dict.fromkeys(seeds))


class Amount(click.ParamType):
    """`583M`, `4.0G`, `120000`."""

    name = "amount"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = _AMOUNT.fullmatch(str(value))
        if match is None or float(match[1]) == 0:
            self.fail(f"{value!r} is no amount; write 583M or 4.0G", param, ctx)
        return round(
            float(match[1]) * {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}[match[2].lower()]
        )


@click.command(
    epilog="""\b
Examples:
  graphc sample examples/randwire_small.yaml --seeds 0-9 -o samples
  graphc sample examples/randwire_small.yaml --seeds 0-9 -o samples --macs 583M
"""
)
@spec_argument
@set_option
@click.option(
    "--seeds", type=Seeds(), default="0-9", show_default=True, help="Which: 0-9, or 0-4,7."
)
@click.option(
    "--macs",
    "target",
    type=Amount(),
    metavar="MACS",
    help="Scale all widths alike until the mean of conv_macs over the seeds comes closest.",
)
@output_option("DIR", "Folder to write; may replace an earlier output.")
@json_option
def command(
    spec: str,
    overrides: tuple[str, ...],
    seeds: tuple[int, ...],
    target: int | None,
    output: Path,
    as_json: bool,
) -> None:
    """Draws SPEC once a seed and writes each draw as a resolved spec, with a table of costs.

    The table is in DIR as samples.csv and samples.json. With --macs one width is chosen for all
    seeds: the first stage's width takes whole numbers, the others keep their ratio to it.
    """
    check_output_folder(output, TABLE)

    from compiler.analysis import analyze
    from compiler.complexity import count
    from compiler.files import replacing
    from compiler.scaling import closest_width, with_first_width
    from graphspec import dump, load, resolve

    first = load(spec, overrides=(*overrides, f"seed={seeds[0]}"))
    print_findings(analyze(first)[1])
    if all(not stage.wiring.is_random for stage in first.stages):
        click.echo("warning: no stage is wired at random; all draws are equal", err=True)
    drawn = {seed: load(spec, overrides=(*overrides, f"seed={seed}")) for seed in seeds}
    if target is not None:
        width = closest_width(list(drawn.values()), target, _say_trial)
        drawn = {seed: with_first_width(each, width) for seed, each in drawn.items()}

    rows: list[dict[str, Any]] = []
    texts: dict[str, str] = {}
    for seed, each in drawn.items():
        graph, _ = analyze(each)
        complexity = count(graph)
        file = f"{each.name}_seed{seed}.yaml"
        texts[file] = dump(resolve(each))
        rows.append(
            {
                "seed": seed,
                "file": file,
                "width": each.stages[0].width,
                "nodes": sum(len(stage.nodes) for stage in graph.stages),
                "edges": sum(len(stage.edges) for stage in graph.stages),
                "params": complexity.params,
                "conv_macs": complexity.conv_macs,
                "macs": complexity.macs,
            }
        )
    if target is not None:
        mean = sum(row["conv_macs"] for row in rows) / len(rows)
        if abs(mean - target) > TOLERANCE * target:
            found = f"the closest width has {mean:,.0f} conv MACs, not {target:,}"
            click.echo(f"warning: {found}", err=True)
    summary = {"output": str(output), "target_conv_macs": target, "samples": rows}
    with replacing(output) as temporary:
        temporary.mkdir()
        for file, text in texts.items():
            (temporary / file).write_text(text, encoding="utf-8")
        (temporary / "samples.csv").write_text(_csv(rows), encoding="utf-8")
        (temporary / TABLE).write_text(
            json_text({"schema_version": 1, **summary}), encoding="utf-8"
        )
    if as_json:
        print_json(summary)
    else:
        _print_rows(first, rows)


def _say_trial(width: int, mean: float) -> None:
    click.echo(f"width {width}: {mean:,.0f} conv MACs", err=True)


def _csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer: csv.DictWriter[str] = csv.DictWriter(text, list(_COLUMNS), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _print_rows(spec: NetworkSpec, rows: list[dict[str, Any]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from compiler.cli._output import print_table

    table = Table(title=spec.name, title_justify="left", box=SIMPLE_HEAD, show_footer=len(rows) > 1)
    means = {key: sum(row[key] for row in rows) / len(rows) for key in _COLUMNS if key != "file"}
    for column in _COLUMNS:
        footer = f"{means[column]:,.0f}" if column not in ("seed", "file") else ""
        table.add_column(
            column,
            footer="mean" if column == "seed" else footer,
            justify="left" if column == "file" else "right",
        )
    for row in rows:
        cells = [row[key] if key == "file" else f"{row[key]:,}" for key in _COLUMNS]
        table.add_row(*cells)
    print_table(table)
