"""`graphc resolve`: the merged spec, with where each value came from."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compiler.cli._arguments import json_option, read_graph, set_option, spec_argument
from compiler.cli._output import print_json

if TYPE_CHECKING:
    from graphspec.source import Tree

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_/.-]*")


@click.command(
    epilog="""\b
Examples:
  graphc resolve my.yaml
  graphc resolve my.yaml --set stages.layer2.depth=6 --json
"""
)
@spec_argument
@set_option
@json_option
def command(spec: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Prints SPEC after `extends`, `stage_defaults` and --set, each value with its origin.

    The origin is a comment, FILE:LINE:COLUMN or the number of the --set. With --json: the merged
    spec under `spec`, and the origin of every value by its path under `origins`. Values that
    nobody wrote (defaults) are not shown; `graphc compile` writes them out.
    """
    from graphspec.errors import Report, format_path
    from graphspec.layers import read_layers
    from graphspec.source import plain, walk

    read_graph(spec, overrides)
    path = Path(spec)
    tree = read_layers(path.read_text(encoding="utf-8"), spec, overrides, Report(), path)
    assert tree is not None, "read_graph found the spec right"
    if as_json:
        origins = {
            format_path(where): _origin(leaf)
            for where, leaf in walk(tree)
            if not isinstance(leaf.value, dict | list)
        }
        print_json({"file": spec, "spec": plain(tree), "origins": origins})
        return
    lines = list(_lines(tree, 0))
    column = min(60, max(len(text) for text, _ in lines)) + 2
    for text, origin in lines:
        click.echo(f"{text:<{column}}# {origin}" if origin else text)


def _lines(tree: Tree, indent: int) -> Iterator[tuple[str, str]]:
    """Block-style YAML, line by line, with the origin of what stands on the line."""
    pad = "  " * indent
    entries = tree.mapping or {}
    for key in sorted(entries, key=lambda key: key != "name" or indent == 0):
        name, value = _scalar(key), entries[key]
        if value.mapping:
            yield f"{pad}{name}:", ""
            yield from _lines(value, indent + 1)
        elif value.items and _is_nested(value):
            yield f"{pad}{name}:", ""
            yield from _items(value, indent + 1)
        else:
            yield f"{pad}{name}: {_flow(value)}", _origin(value)


def _items(tree: Tree, indent: int) -> Iterator[tuple[str, str]]:
    pad = "  " * indent
    for item in tree.items or ():
        if item.mapping:
            lines = list(_lines(item, indent + 1))
            text, place = lines[0]
            yield f"{pad}- {text.lstrip()}", place
            yield from lines[1:]
        else:
            yield f"{pad}- {_flow(item)}", _origin(item)


def _origin(tree: Tree) -> str:
    """FILE:LINE:COLUMN, or which --set."""
    return tree.span.file if tree.span.file.startswith("--set") else str(tree.span)


def _is_nested(tree: Tree) -> bool:
    return any(isinstance(item.value, dict | list) for item in tree.items or ())


def _flow(tree: Tree) -> str:
    if tree.mapping is not None:
        entries = (f"{_scalar(key)}: {_flow(value)}" for key, value in tree.mapping.items())
        return "{" + ", ".join(entries) + "}"
    if tree.items is not None:
        return "[" + ", ".join(_flow(item) for item in tree.items) + "]"
    return _scalar(tree.value)


def _scalar(value: Any) -> str:
    """A scalar that reads back as itself; JSON's scalars are YAML's."""
    from graphspec.source import resolve_scalar

    if isinstance(value, str) and _PLAIN.fullmatch(value) and resolve_scalar(value) == value:
        return value
    return json.dumps(value, ensure_ascii=False)
