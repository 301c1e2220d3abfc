"""SVG to PNG with the resvg wheel and the font that matplotlib ships: no system binary or font."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import resvg_py

SCALE = 2.0
"""Pixels a unit: sharp on paper and on screens of high density."""


def to_png(svg: str) -> bytes:
    """The picture's pixels as a PNG file."""
    return bytes(
        resvg_py.svg_to_bytes(
            svg_string=svg,
            zoom=SCALE,
            skip_system_fonts=True,
            font_files=[str(path) for path in _fonts()],
            font_family="DejaVu Sans",
            sans_serif_family="DejaVu Sans",
        )
    )


def _fonts() -> list[Path]:
    """DejaVu Sans, found without importing matplotlib."""
    package = find_spec("matplotlib")
    assert package is not None
    assert package.origin is not None
    folder = Path(package.origin).parent / "mpl-data" / "fonts" / "ttf"
    return [folder / "DejaVuSans.ttf", folder / "DejaVuSans-Bold.ttf"]
