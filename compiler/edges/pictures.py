"""Pictures of what edges weigh: matrices as the DG-Net paper orders them, curves over tau.

Rows are receiving nodes, columns sending ones (DG-Net, section 3.4; its figures 5-7).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import torch
from matplotlib.figure import Figure
from torch import Tensor

from runtime.edge_statistics import THRESHOLDS, Analysis, Sample, StageStatistics

MAX_NUMBERS = 9
"""Nodes up to which the value of every edge is printed in its cell."""
MAX_NAMES = 40
"""Names along an axis; beyond that only some are written."""


def draw_edges(
    analysis: Analysis,
    samples: Sequence[tuple[str, Sample]],
    thresholds: Mapping[str, Mapping[str, float]],
    folder: Path,
) -> list[tuple[str, Path]]:
    """Writes every picture as .svg and .png; returns captions and the .svg files."""
    figures: list[tuple[str, str, Figure]] = []
    for name, stage in analysis.stages.items():
        caption = f"{name}: what its edges weigh"
        figures.append((f"weights_{name}", caption, _weights(name, stage)))
        if stage.is_routed:
            caption = f"{name}: how classes differ"
            figures.append((f"classes_{name}", caption, _classes(name, stage)))
    if thresholds:
        routed = {name: analysis.stages[name] for name in thresholds}
        caption = "Closed edges and removed nodes against tau"
        figures.append(("thresholds", caption, _thresholds(routed, thresholds)))
    if samples:
        figures.append(("samples", "Single images", _samples(analysis, samples)))
    written: list[tuple[str, Path]] = []
    with matplotlib.rc_context({"svg.hashsalt": "graphc", "font.size": 9}):
        for name, caption, figure in figures:
            path = folder / f"{name}.svg"
            figure.savefig(path, metadata={"Date": None})
            figure.savefig(path.with_suffix(".png"), dpi=140)
            written.append((caption, path))
    return written


def _weights(name: str, stage: StageStatistics) -> Figure:
    size = _inches(len(stage.nodes))
    is_routed = stage.is_routed
    figure = Figure(
        figsize=((2 if is_routed else 1) * (size + 1.2), size + 0.7), layout="constrained"
    )
    axes = figure.subplots(1, 2 if is_routed else 1, squeeze=False)[0]
    _matrix(axes[0], stage, stage.weights.mean, "viridis", "mean weight over images")
    axes[0].set_title(f"{name}: mean", fontsize=9)
    if is_routed:
        _matrix(axes[1], stage, stage.weights.std, "magma", "standard deviation over images")
        axes[1].set_title(f"{name}: standard deviation", fontsize=9)
    return figure


def _inches(num_nodes: int) -> float:
    return min(7.5, max(2.8, 0.48 * num_nodes + 0.8))


def _matrix(
    axes: Any,
    stage: StageStatistics,
    values: Tensor,
    colors: str,
    label: str,
    top: float | None = None,
) -> None:
    shown = torch.where(stage.edges, values.double(), torch.nan).numpy()
    highest = float(values[stage.edges].max()) if top is None else top
    image = axes.imshow(shown, cmap=colors, vmin=0, vmax=highest or 1.0)
    axes.set_facecolor("0.93")
    axes.figure.colorbar(image, ax=axes, label=label, shrink=0.85)
    places, names = _ticks(stage.nodes)
    axes.set_xticks(places, names, rotation=90)
    axes.set_yticks(places, names)
    axes.set_xlabel("from node (source)")
    axes.set_ylabel("to node (target)")
    if len(stage.nodes) > MAX_NUMBERS:
        return
    digits = 2 if highest >= 0.1 else 3 if highest >= 0.01 else 4
    for target, source in stage.edges.nonzero().tolist():
        value = float(values[target, source])
        red, green, blue, _ = image.cmap(image.norm(value))
        is_dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
        color, text = "white" if is_dark else "black", f"{value:.{digits}f}"
        axes.text(source, target, text, ha="center", va="center", fontsize=7, color=color)


def _ticks(nodes: Sequence[str]) -> tuple[list[int], list[str]]:
    step = max(1, -(-len(nodes) // MAX_NAMES))
    places = list(range(0, len(nodes), step))
    return places, [nodes[place] for place in places]


def _classes(name: str, stage: StageStatistics) -> Figure:
    """The mean weight of every edge in a class, less its mean over all images."""
    edges = stage.edges.nonzero().tolist()
    means = torch.stack([moments.mean[stage.edges] for moments in stage.by_class])
    difference = means - stage.weights.mean[stage.edges]
    limit = float(difference.abs().max()) or 1.0
    width = min(14.0, max(4.5, 0.24 * len(edges) + 1.8))
    height = min(9.0, 0.24 * len(means) + 2.0)
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(difference.numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
    figure.colorbar(image, ax=axes, label="mean weight in the class\nless the mean over all")
    step = max(1, -(-len(edges) // MAX_NAMES))
    shown = range(0, len(edges), step)
    labels = [f"{stage.nodes[edges[i][1]]} → {stage.nodes[edges[i][0]]}" for i in shown]
    axes.set_xticks(list(shown), labels, rotation=90, fontsize=7)
    places, names = _ticks([str(label) for label in range(len(means))])
    axes.set_yticks(places, names)
    axes.set_xlabel("edge (source → target)")
    axes.set_ylabel("class")
    axes.set_title(f"{name}: weights by class", fontsize=9)
    return figure


def _thresholds(
    stages: Mapping[str, StageStatistics], learned: Mapping[str, Mapping[str, float]]
) -> Figure:
    figure = Figure(figsize=(8.5, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, title in ((left, "closed edges"), (right, "removed nodes")):
        for index, (name, stage) in enumerate(stages.items()):
            moments = stage.closed_at if axes is left else stage.removed_at
            shares = [100 * float(m.mean) for m in moments]
            axes.plot(THRESHOLDS, shares, "o-", ms=3, color=f"C{index}", label=name)
            taus = [min(1.06, max(-0.06, tau)) for tau in learned[name].values()]
            axes.plot(taus, [-4 - 3 * index] * len(taus), "|", ms=8, color=f"C{index}")
        axes.set_xlim(-0.1, 1.1)
        axes.set_xlabel("tau of every node\n(marks: learned; beyond 0 .. 1 at the edge)")
        axes.set_ylabel("share over images (%)")
        axes.set_title(title, fontsize=9)
        axes.set_ylim(-8 - 3 * len(stages), 105)
        axes.set_yticks(range(0, 101, 20))
        axes.grid(alpha=0.3)
    left.legend(fontsize=8)
    return figure


def _samples(analysis: Analysis, samples: Sequence[tuple[str, Sample]]) -> Figure:
    """One row a sample, one column a stage with one scale of colours."""
    stages = analysis.stages
    sizes = [_inches(len(stage.nodes)) for stage in stages.values()]
    figure = Figure(
        figsize=(sum(sizes) + 1.3 * len(sizes), (max(sizes) + 0.6) * len(samples)),
        layout="constrained",
    )
    grid = figure.subplots(len(samples), len(stages), squeeze=False)
    tops = {
        name: max(float(sample.weights[name].max()) for _, sample in samples) for name in stages
    }
    for row, (role, sample) in enumerate(samples):
        for column, (name, stage) in enumerate(stages.items()):
            axes = grid[row][column]
            _matrix(axes, stage, sample.weights[name], "viridis", "weight", tops[name])
            said = f"{role}: class {sample.label}, said {sample.prediction}, loss {sample.loss:.3g}"
            axes.set_title(f"{name}\n{said}", fontsize=8)
    return figure
