"""What a drawing consists of: shapes and words with coordinates, before any file format.

Everything is placed here in pixels; svg.py, page.py and png.py only write it down.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

Point = tuple[float, float]
Data = tuple[tuple[str, str], ...]
"""Names that the interactive page finds an item by: node, source, target, stage."""


@dataclass(frozen=True)
class Line:
    """How a stroke looks. `dashes` as in SVG: lengths of stroke and gap."""

    color: str
    width: float = 1.0
    dashes: tuple[float, ...] = ()
    opacity: float = 1.0


@dataclass(frozen=True)
class Rectangle:
    """`x`, `y` is the upper left corner; `title` shows under a resting pointer."""

    x: float
    y: float
    width: float
    height: float
    fill: str
    line: Line | None = None
    radius: float = 0.0
    title: str = ""
    data: Data = ()

    def moved(self, dx: float, dy: float) -> Rectangle:
        return replace(self, x=self.x + dx, y=self.y + dy)


@dataclass(frozen=True)
class Curve:
    """Cubic Bezier segments: a start, then two control points and an end for each."""

    points: tuple[Point, ...]
    line: Line
    title: str = ""
    data: Data = ()

    def moved(self, dx: float, dy: float) -> Curve:
        return replace(self, points=tuple((x + dx, y + dy) for x, y in self.points))


@dataclass(frozen=True)
class Polygon:
    """A filled area without an outline."""

    points: tuple[Point, ...]
    fill: str
    data: Data = ()

    def moved(self, dx: float, dy: float) -> Polygon:
        return replace(self, points=tuple((x + dx, y + dy) for x, y in self.points))


@dataclass(frozen=True)
class Words:
    """A line of text; `y` is its baseline, `anchor` says which end `x` is."""

    x: float
    y: float
    text: str
    size: float = 11.0
    anchor: str = "start"
    bold: bool = False
    color: str = "#222222"

    def moved(self, dx: float, dy: float) -> Words:
        return replace(self, x=self.x + dx, y=self.y + dy)

    @property
    def left(self) -> float:
        width = text_width(self.text, self.size, self.bold)
        return self.x - {"start": 0.0, "middle": 0.5, "end": 1.0}[self.anchor] * width

    @property
    def right(self) -> float:
        return self.left + text_width(self.text, self.size, self.bold)


Item = Rectangle | Curve | Polygon | Words


@dataclass(frozen=True)
class Picture:
    """Items are painted in order: later ones lie on top."""

    title: str
    width: float
    height: float
    items: tuple[Item, ...]


# Advance widths of DejaVu Sans in 1/100 of the size, for ASCII 32 to 126. It ships with
# matplotlib and is as wide as any common sans serif: text laid out for it fits in all of them.
_WIDTHS = (
    *(32, 40, 46, 84, 64, 95, 78, 27, 39, 39, 50, 84, 32, 36, 32, 34, 64, 64, 64, 64, 64, 64, 64),
    *(64, 64, 64, 34, 34, 84, 84, 84, 53, 100, 68, 69, 70, 77, 63, 58, 77, 75, 29, 29, 66, 56, 86),
    *(75, 79, 60, 79, 69, 63, 61, 73, 68, 99, 69, 61, 69, 39, 34, 39, 84, 50, 50, 61, 63, 55, 63),
    *(62, 35, 63, 63, 28, 28, 58, 28, 97, 63, 61, 63, 63, 41, 52, 39, 63, 59, 82, 59, 59, 52, 64),
    *(34, 64, 84),
)
_WIDEST_OTHER = 100
_BOLD = 1.16


def text_width(text: str, size: float, bold: bool = False) -> float:
    """How many pixels a line of text takes."""
    hundredths = sum(
        _WIDTHS[ord(letter) - 32] if 32 <= ord(letter) < 127 else _WIDEST_OTHER for letter in text
    )
    return hundredths / 100 * size * (_BOLD if bold else 1.0)


def straight(start: Point, end: Point) -> tuple[Point, ...]:
    """A straight line as one cubic segment."""
    (x, y), (u, v) = start, end
    return (start, (x + (u - x) / 3, y + (v - y) / 3), (u - (u - x) / 3, v - (v - y) / 3), end)


def polyline(*corners: Point) -> tuple[Point, ...]:
    """Straight lines through the corners as cubic segments."""
    points: list[Point] = [corners[0]]
    for start, end in pairwise(corners):
        points.extend(straight(start, end)[1:])
    return tuple(points)


def arrowhead(tip: Point, direction: Point, size: float = 5.0) -> tuple[Point, ...]:
    """A small triangle that ends at `tip` and points along the unit vector `direction`."""
    (x, y), (dx, dy) = tip, direction
    back = (x - dx * size, y - dy * size)
    half = size * 0.42
    return (
        tip,
        (back[0] - dy * half, back[1] + dx * half),
        (back[0] + dy * half, back[1] - dx * half),
    )
