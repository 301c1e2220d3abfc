"""An image with its true boxes, beside the same image with those that a detector found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from compiler.files import replacing

LEAST_SCORE = 0.5


def draw_boxes(
    path: Path,
    pixels: Tensor,
    classes: Sequence[str],
    truth: Mapping[str, Tensor],
    found: Mapping[str, Tensor],
    *,
    width: float = 8.0,
) -> None:
    """Writes a PNG; of the found boxes those with a score of LEAST_SCORE or more.

    Shape: pixels (C, H, W) in [0, 1]; boxes (N, 4), labels (N,) from 1, scores (N,)
    """
    from matplotlib.figure import Figure

    height, image_width = pixels.shape[1:]
    figure = Figure(figsize=(width, width / 2 * height / image_width + 0.7), layout="constrained")
    kept = found["scores"] >= LEAST_SCORE
    shown = (
        ("true", truth["boxes"], truth["labels"]),
        (f"found, score ≥ {LEAST_SCORE}", found["boxes"][kept], found["labels"][kept]),
    )
    for axes, (title, boxes, labels) in zip(figure.subplots(1, 2), shown, strict=True):
        axes.imshow(pixels.expand(3, -1, -1).permute(1, 2, 0).numpy())
        axes.set_axis_off()
        axes.set_title(f"{title}: {len(boxes)}", fontsize=9)
        _add_boxes(axes, boxes.cpu(), labels.tolist())
    figure.legend(handles=_legend(classes), loc="outside lower center", ncols=8, fontsize=8)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=72)


def _add_boxes(axes: Any, boxes: Tensor, labels: Sequence[int]) -> None:
    from matplotlib.patches import Rectangle

    for (x1, y1, x2, y2), label in zip(boxes.tolist(), labels, strict=True):
        color = _color(label)
        axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, ec=color, lw=1.2))


def _legend(classes: Sequence[str]) -> list[Any]:
    from matplotlib.lines import Line2D

    return [
        Line2D([], [], color=_color(label), label=name) for label, name in enumerate(classes, 1)
    ]


def _color(label: int) -> str:
    return f"C{(label - 1) % 10}"
