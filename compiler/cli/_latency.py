"""Table 3 of the DG-Net paper: latencies, here and now."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from compiler.cli._output import print_json, print_table
from compiler.cli.bench import compare_networks

PAPER = {"InstaNAS-A": 0.239, "InstaNAS-B": 0.189, "InstaNAS-C": 0.171, "DG-MobileNetV2": 0.257}
"""ms an image, as printed, on a GPU."""
BATCHES = (1, 32)
ROUNDS = 9
TRAIN = (
    "graphc train examples/dgnet_mobilenet_v2.yaml --data DATA --recipe mobilenet "
    "--recipe-set mac_budget=0.75"
)


def table3(run: Path | None, device: str, *, is_compiled: bool, as_json: bool) -> None:
    """Measures DG-MobileNetV2 beside MobileNetV2, in turns, and prints both tables."""
    rows = [row for way in (False, True)[: 1 + is_compiled] for row in _rows(run, device, way)]
    if as_json:
        print_json({"name": "table3", "paper_ms": PAPER, "rows": rows})
        return
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    printed = ", ".join(f"{name} {latency} ms" for name, latency in PAPER.items())
    click.echo(f"Of the paper, an image on a GPU: {printed}.")
    click.echo(
        "Here: ms of a batch, in turns with the static network; CPU times are single-thread.\n"
    )
    table = Table(title="table3: latencies", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("network")
    for column in ("batch", "ms", "static ms", "time / static", "MACs / static"):
        table.add_column(column, justify="right")
    for row in rows:
        name = f"{row['network']}, compiled" if row["compiled"] else row["network"]
        cells = (f"{row[key]:.{digits}f}" for key, digits in _DIGITS)
        table.add_row(name, str(row["batch"]), *cells)
    print_table(table)
    if run is None:
        click.echo("Routes as at first, all open: sparse and specialised need --run RUN, made by")
        click.echo(f"  {TRAIN}")


_DIGITS = (("ms", 2), ("static_ms", 2), ("time_ratio", 3), ("mac_ratio", 3))


def _rows(run: Path | None, device: str, is_compiled: bool) -> Iterator[dict[str, Any]]:
    from compiler.paper import example

    modes = ["masked"] if run is None else ["masked", "sparse", "specialised"]
    if is_compiled and "sparse" in modes:
        modes.remove("sparse")  # it decides in Python what to compute
    for batch in BATCHES:
        for mode in modes:
            comparison, _ = compare_networks(
                str(run or example("dgnet_mobilenet_v2")),
                overrides=(),
                device=device,
                threads=1 if device == "cpu" else None,
                mode=mode,
                against=str(example("mobilenet_v2")),
                batch=batch,
                rounds=ROUNDS,
                is_training=False,
                is_compiled=is_compiled,
                is_channels_last=True,
                close=None,
                fold=True,
            )
            ours, static = comparison.measured
            yield {
                "network": f"DG-MobileNetV2, {mode}",
                "compiled": is_compiled,
                "batch": batch,
                "ms": ours.time_ms,
                "static_ms": static.time_ms,
                "time_ratio": comparison.ratio["time"],
                "mac_ratio": comparison.ratio["macs"],
            }
