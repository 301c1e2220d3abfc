"""A picture as one HTML page: it loads nothing, and shows a node's edges under the pointer."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from pathlib import Path

from jinja2 import Environment, StrictUndefined

_FOLDER = Path(__file__).parent


def to_page(title: str, svg: str) -> str:
    """The page's text. Its policy allows this style and script by their hashes, and no network."""
    style = (_FOLDER / "page.css").read_text(encoding="utf-8")
    script = (_FOLDER / "page.js").read_text(encoding="utf-8")
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(
        (_FOLDER / "page.html.jinja").read_text(encoding="utf-8")
    )
    policy = f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}"
    return template.render(title=title, svg=svg, style=style, script=script, policy=policy)


def _hash(content: str) -> str:
    return f"'sha256-{b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
