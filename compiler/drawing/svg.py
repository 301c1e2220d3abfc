"""A picture as SVG: presentation attributes only, so that every viewer and converter reads it."""

from __future__ import annotations

from html import escape

from compiler.drawing.picture import Curve, Data, Item, Line, Picture, Polygon, Rectangle, Words

FONTS = "DejaVu Sans, Verdana, Arial, sans-serif"


def to_svg(picture: Picture) -> str:
    """The text of a self-contained SVG file."""
    width, height = _number(picture.width), _number(picture.height)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" font-family="{FONTS}" role="img">',
        f"<title>{_text(picture.title)}</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        *(_element(item) for item in picture.items),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _element(item: Item) -> str:
    match item:
        case Rectangle():
            radius = f' rx="{_number(item.radius)}"' if item.radius else ""
            attributes = (
                f'x="{_number(item.x)}" y="{_number(item.y)}" width="{_number(item.width)}" '
                f'height="{_number(item.height)}"{radius} fill="{item.fill}"{_stroke(item.line)}'
            )
            return _closed("rect", attributes + _data(item.data), item.title)
        case Curve():
            attributes = f'd="{_path(item)}" fill="none"{_stroke(item.line)}'
            return _closed("path", attributes + _data(item.data), item.title)
        case Polygon():
            points = " ".join(f"{_number(x)},{_number(y)}" for x, y in item.points)
            return _closed("polygon", f'points="{points}" fill="{item.fill}"' + _data(item.data))
        case Words():
            weight = ' font-weight="bold"' if item.bold else ""
            return (
                f'<text x="{_number(item.x)}" y="{_number(item.y)}" font-size="{item.size:g}" '
                f'text-anchor="{item.anchor}" fill="{item.color}"{weight}>{_text(item.text)}</text>'
            )


def _closed(tag: str, attributes: str, title: str = "") -> str:
    if not title:
        return f"<{tag} {attributes}/>"
    return f"<{tag} {attributes}><title>{_text(title)}</title></{tag}>"


def _path(curve: Curve) -> str:
    points = [f"{_number(x)} {_number(y)}" for x, y in curve.points]
    segments = (" ".join(points[place : place + 3]) for place in range(1, len(points), 3))
    return f"M{points[0]} " + " ".join(f"C{segment}" for segment in segments)


def _stroke(line: Line | None) -> str:
    if line is None:
        return ""
    dashes = f' stroke-dasharray="{" ".join(f"{d:g}" for d in line.dashes)}"' if line.dashes else ""
    opacity = f' stroke-opacity="{line.opacity:g}"' if line.opacity < 1 else ""
    return f' stroke="{line.color}" stroke-width="{line.width:g}"{dashes}{opacity}'


def _data(data: Data) -> str:
    return "".join(f' data-{key}="{escape(value)}"' for key, value in data)


def _text(text: str) -> str:
    return escape(text, quote=False)


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
