"""Two pictures of what wiring costs: `python -m tests.bench.pictures docs/results`."""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from tests.bench.goals import EXAMPLES, GRAPHC

NODES = (2, 4, 8, 16, 24, 32)
CLOSED = (0.0, 0.25, 0.5, 0.75, 0.9)
BATCHES = (1, 32)
STAGE = """\
version: 1
name: nodes_{depth}
input_shape: [{channels}, {size}, {size}]
stem: identity
stages:
  - name: layer1
    depth: {depth}
    width: {channels}
    block: {block}
    wiring: {wiring}
    edge_weights: {weights}
head: {{kind: pooled_linear, num_classes: 10}}
"""
BLOCKS = {
    "separable_conv, 78 channels, 28x28": ("separable_conv", 78, 28),
    "bottleneck, 1024 channels, 14x14": ("{kind: bottleneck, shortcut: false}", 1024, 14),
}


def bench(*words: str) -> dict[str, Any]:
    """The result of `graphc bench`."""
    command = [*GRAPHC, "bench", *words, "--threads", "1", "--rounds", "5", "--json"]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)


def overheads() -> Iterator[dict[str, Any]]:
    """Train steps of complete routed stages over those of the residual wiring, by nodes."""
    with tempfile.TemporaryDirectory() as folder:
        for name, block in BLOCKS.items():
            for depth in NODES:
                routed = write_stage(Path(folder), depth, block, "complete", "routed")
                static = write_stage(Path(folder), depth, block, "residual", "fixed")
                step = ("--train", "--batch", "2", "--channels-last")
                ours = bench(routed, "--against", static, *step)["ratio"]["time"]
                share = bench(routed, "--against", "products", *step)["ratio"]["time"]
                yield {"block": name, "nodes": depth, "ours": ours, "products": ours / share}


def write_stage(
    folder: Path, depth: int, kind: tuple[str, int, int], wiring: str, weights: str
) -> str:
    """The file of a network of one stage."""
    block, channels, size = kind
    text = STAGE.format(
        depth=depth, channels=channels, size=size, block=block, wiring=wiring, weights=weights
    )
    file = folder / f"{wiring}_{depth}.yaml"
    file.write_text(text, encoding="utf-8")
    return str(file)


def closings() -> Iterator[dict[str, Any]]:
    """Sparse over masked inference of DG-ResNet50, by the share of blocks that are closed."""
    for batch in BATCHES:
        for closed in CLOSED:
            ratio = bench(
                *(f"{EXAMPLES}/dgnet_resnet50.yaml", "--mode", "sparse", "--against", "masked"),
                *("--close", str(closed), "--batch", str(batch), "--channels-last"),
                *("--set", "input_shape=[3,112,112]"),
            )["ratio"]
            yield {"batch": batch, "closed": closed, "time": ratio["time"], "alive": ratio["macs"]}


def draw_overheads(rows: list[dict[str, Any]]) -> Figure:
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, block in zip(figure.subplots(1, 2), BLOCKS, strict=True):
        found = [row for row in rows if row["block"] == block]
        nodes = [row["nodes"] for row in found]
        axes.plot(nodes, [row["products"] for row in found], "s--", label="a product an edge")
        axes.plot(nodes, [row["ours"] for row in found], "o-", label="graphc")
        axes.axhline(1, color="black", linewidth=0.8, label="static: residual wiring")
        axes.set(title=block, xlabel="block nodes of a complete routed stage")
        axes.set_ylabel("train step / static")
        axes.set_ylim(bottom=0.9)
        axes.grid(alpha=0.3)
    figure.axes[0].legend(frameon=False)
    return figure


def draw_closings(rows: list[dict[str, Any]]) -> Figure:
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    for batch, mark in zip(BATCHES, "os", strict=True):
        found = [row for row in rows if row["batch"] == batch]
        axes.plot(
            [1 - row["alive"] for row in found],
            [row["time"] for row in found],
            f"{mark}-",
            label=f"DG-ResNet50, batch {batch}",
        )
    axes.plot([0, 1], [1, 0], color="black", linewidth=0.8, label="ideal: as many as are alive")
    axes.set(xlabel="share of multiply-adds closed", ylabel="time, sparse / masked")
    axes.set(xlim=(0, 1), ylim=(0, 1.15))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return figure


PICTURES = {"overhead": (overheads, draw_overheads), "closed": (closings, draw_closings)}


def main() -> None:
    """Measures, and writes each picture beside its data."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", help=", ".join(PICTURES))
    arguments = parser.parse_args()
    for name in arguments.names or PICTURES:
        measure, draw = PICTURES[name]
        rows = list(measure())
        text = json.dumps(rows, indent=1) + "\n"
        (arguments.folder / f"{name}.json").write_text(text, encoding="utf-8")
        with matplotlib.rc_context({"font.size": 9}):
            draw(rows).savefig(arguments.folder / f"{name}.png", dpi=120)


if __name__ == "__main__":
    main()
