"""Pictures of networks: own layout, one drawing model, written as SVG, PNG or one HTML page.

No graphviz, no JavaScript library, no torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from compiler.files import replacing

if TYPE_CHECKING:
    from graphspec.graph import NetworkGraph

FORMATS = (".svg", ".png", ".html")


def draw(graph: NetworkGraph, path: Path) -> None:
    """Writes a picture of the network; the suffix of `path` says in which format.

    Raises:
        ValueError: the suffix is none of `FORMATS`.
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise ValueError(f"cannot draw a {path.suffix or 'file without a suffix'}; use {FORMATS}")
    svg = render_svg(graph)
    match path.suffix:
        case ".png":
            from compiler.drawing.png import to_png

            content = to_png(svg)
        case ".html":
            from compiler.drawing.page import to_page

            content = to_page(graph.name, svg).encode()
        case _:
            content = svg.encode()
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def render_svg(graph: NetworkGraph, stage: str | None = None) -> str:
    """The network, or one of its stages, as the text of an SVG file."""
    from compiler.drawing.network import draw_network
    from compiler.drawing.svg import to_svg

    return to_svg(draw_network(graph, stage))
