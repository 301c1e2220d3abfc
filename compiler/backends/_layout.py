"""Python text for generated code, laid out as ruff's formatter would leave it.

Knows expressions made of names, literals and brackets; nothing about networks.
"""

from __future__ import annotations

import ast
import io
import math
import re
import sys
import tokenize
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

WIDTH = 100
BODY = 2
"""The indentation of a method's body, in steps."""
_INDENT = " " * 4
MARGIN = _INDENT * BODY


@dataclass(frozen=True)
class Bracket:
    """`head`, which ends in an opening bracket, then `items`, then `close`: `f(1, [2])`."""

    head: str
    items: tuple[Code, ...]
    close: str


Code = str | Bracket


def call(function: str, arguments: Iterable[Code]) -> Bracket:
    """`function(arguments)`."""
    return Bracket(f"{function}(", tuple(arguments), ")")


def flat(code: Code) -> str:
    """The code on one line."""
    if isinstance(code, str):
        return code
    return f"{code.head}{', '.join(map(flat, code.items))}{code.close}"


def prefixed(prefix: str, code: Code) -> Code:
    """`prefix` before `code`, as in `keyword=[1, 2]`."""
    if isinstance(code, str):
        return prefix + code
    return Bracket(prefix + code.head, code.items, code.close)


def fits(line: str) -> bool:
    """Whether the formatter leaves a line whole."""
    return len(line) <= WIDTH


def lay_out(code: Code, *, indent: int = 0, prefix: str = "", suffix: str = "") -> list[str]:
    """The lines of one statement, or of one item in brackets: `prefix`, `code`, `suffix`.

    1. On one line, if it fits.
    2. Else what is in the brackets of a call or a signature, on one line of its own.
    3. Else one item a line, each followed by a comma.
    """
    margin = _INDENT * indent
    whole = margin + prefix + flat(code) + suffix
    if fits(whole) or isinstance(code, str):
        return [whole]
    lines = [margin + prefix + code.head]
    inside = margin + _INDENT + ", ".join(map(flat, code.items))
    is_call = code.close.startswith(")") and re.search(r"[\w\])]\($", code.head)
    if fits(inside) and is_call:
        lines.append(inside)
    else:
        # The formatter gives a call's only argument no comma.
        alone = len(code.items) == 1 and is_call
        for item in code.items:
            lines += lay_out(item, indent=indent + 1, suffix="" if alone else ",")
    return [*lines, margin + code.close + suffix]


def literal(value: Any) -> Code:
    """Python for plain data: pure ASCII, and nothing in it can be anything but data.

    Raises: TypeError for values that are not None, bool, int, float, str, list or tuple.
    """
    if value is None or isinstance(value, bool):
        return repr(value)
    if type(value) is int:
        return str(value)
    if type(value) is float:
        return repr(value) if math.isfinite(value) else f'float("{value}")'
    if type(value) is str:
        return _string(value)
    if type(value) is tuple and len(value) == 1:
        return f"({flat(literal(value[0]))},)"
    if type(value) in (list, tuple):
        opening, close = ("[", "]") if type(value) is list else ("(", ")")
        return Bracket(opening, tuple(map(literal, value)), close)
    raise TypeError(f"{value!r} is not plain data")


def _string(value: str) -> str:
    # The formatter wants double quotes, unless they cost more backslashes.
    quote = "'" if value.count('"') > value.count("'") else '"'
    body = value.encode("unicode_escape").decode("ascii")
    return quote + body.replace(quote, "\\" + quote) + quote


def unparse(expression: ast.expr) -> str:
    """The expression on one line, strings in the formatter's quotes."""
    tokens = list(tokenize.generate_tokens(io.StringIO(ast.unparse(expression)).readline))
    parts: list[str] = []
    column = 0
    for token in tokens:
        if token.type in (tokenize.NEWLINE, tokenize.ENDMARKER):
            continue
        parts.append(" " * (token.start[1] - column))
        value = token.string
        if token.type == tokenize.STRING:
            constant = ast.literal_eval(value)
            value = _string(constant) if isinstance(constant, str) else value
        parts.append(value)
        column = token.end[1]
    return "".join(parts)


def sequence(values: Sequence[Any]) -> Code:
    """A list, shorter where its values repeat or count: `[None] * 5`, `range(1, 9)`."""
    length = len(values)
    if length > 3 and all(type(v) is type(values[0]) and v == values[0] for v in values):
        return f"[{flat(literal(values[0]))}] * {length}"
    if length > 4 and counts(values):
        start = f"{values[0]}, " if values[0] else ""
        return f"range({start}{values[-1] + 1})"
    return literal(list(values))


def counts(values: Sequence[Any]) -> bool:
    """Whether values are consecutive integers."""
    return all(type(v) is int and v == values[0] + i for i, v in enumerate(values))


def import_lines(
    modules: Iterable[tuple[str, str | None]], names: dict[str, set[tuple[str, str | None]]]
) -> list[list[str]]:
    """Import statements in sections: the standard library, then the others, as isort sorts them.

    `modules` are `import a as b`; `names` is, by module, `from a import b as c`.
    """
    sections: list[list[str]] = []
    for is_standard in (True, False):
        lines: list[str] = []
        for module, alias in sorted(modules, key=lambda item: (item[0], item[1] or "")):
            if (module.split(".")[0] in sys.stdlib_module_names) is is_standard:
                lines.append(f"import {module}" + (f" as {alias}" if alias else ""))
        for module in sorted(names):
            if (module.split(".")[0] in sys.stdlib_module_names) is not is_standard:
                continue
            members = [
                f"{name} as {alias}" if alias else name
                for name, alias in sorted(names[module], key=_member_order)
            ]
            head = f"from {module} import "
            whole = head + ", ".join(members)
            if fits(whole):
                lines.append(whole)
            else:
                lines += [f"{head}(", *(f"{_INDENT}{member}," for member in members), ")"]
        if lines:
            sections.append(lines)
    return sections


def _member_order(member: tuple[str, str | None]) -> tuple[int, str, str]:
    # isort's order by type: CONSTANTS, Classes, functions.
    name = member[0]
    kind = 0 if name.isupper() and len(name) > 1 else 1 if name[:1].isupper() else 2
    return kind, name, member[1] or ""
