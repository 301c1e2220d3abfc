"""What is wrong with a spec, where, and what to do about it: values, a collector, a renderer."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

SpecPath = tuple[str | int, ...]

_MAX_COLUMNS = 120
"""Longer source lines are shown as a window around the caret."""

_ANSI = {"error": "\x1b[1;31m", "warning": "\x1b[1;33m", "frame": "\x1b[1;34m", "end": "\x1b[0m"}


@dataclass(frozen=True)
class Span:
    """`width` characters in line `line` (from 1) at `column` (from 1) of a file or a `--set`.

    `text` is the whole line, for the caret under it.
    """

    file: str
    line: int
    column: int
    width: int = 1
    text: str = field(default="", compare=False, repr=False)

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True)
class Diagnostic:
    """One finding about a spec; `slug` is stable, `path` is dotted (`stages[0].wiring.p`)."""

    severity: Literal["error", "warning"]
    slug: str
    path: str
    message: str
    span: Span | None = None
    help: str | None = None

    @property
    def source_line(self) -> str | None:
        """The whole line that `span` lies in."""
        return self.span.text if self.span else None

    def to_dict(self) -> dict[str, Any]:
        """The finding for `--json`; the place is null for specs made in Python."""
        place = self.span and {
            "file": self.span.file,
            "line": self.span.line,
            "column": self.span.column,
            "width": self.span.width,
        }
        return {
            "severity": self.severity,
            "slug": self.slug,
            "path": self.path,
            "message": self.message,
            "place": place,
            "help": self.help,
        }


class SpecError(Exception):
    """A wrong spec: everything that could be found wrong with it, by place."""

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        self.diagnostics = tuple(diagnostics)
        super().__init__(self.diagnostics)

    def __str__(self) -> str:
        return "\n" + render(self.diagnostics)


class SpecWarning(UserWarning):
    """A finding about a spec that does not keep it from being compiled."""


class Provenance:
    """Where the keys and values of a loaded spec stand, by spec path.

    Any two are equal, so that specs compare by what they say, not by where it was written.
    """

    def __init__(
        self,
        values: Mapping[SpecPath, Span] | None = None,
        keys: Mapping[SpecPath, Span] | None = None,
    ) -> None:
        self.values, self.keys = values or {}, keys or {}

    def locate(self, path: SpecPath, *, key: bool = False) -> Span | None:
        """The place of the value (or its key) at `path`, or of the nearest thing around it."""
        if key and path in self.keys:
            return self.keys[path]
        for length in range(len(path), -1, -1):
            if span := self.values.get(path[:length]):
                return span
        return None

    def __eq__(self, other: object) -> bool:
        return other is None or isinstance(other, Provenance)

    def __hash__(self) -> int:
        return 0


class Report:
    """Collects findings about a spec whose `provenance` gives each its place.

    A pass over a spec starts from `Report(spec.provenance)`. One mistake that several paths
    share (a stage default, an anchor) counts once.
    """

    def __init__(
        self, provenance: Provenance | None = None, findings: Iterable[Diagnostic] = ()
    ) -> None:
        self._locate = (provenance or Provenance()).locate
        self._diagnostics: dict[object, Diagnostic] = {}
        self.extend(findings)

    def error(
        self,
        slug: str,
        path: SpecPath,
        message: str,
        help: str | None = None,
        *,
        key: bool = False,
    ) -> None:
        """Adds an error about the value at `path`, or about its key."""
        self.add("error", slug, path, message, help, self._locate(path, key=key))

    def warning(
        self,
        slug: str,
        path: SpecPath,
        message: str,
        help: str | None = None,
        *,
        key: bool = False,
    ) -> None:
        """Adds a warning about the value at `path`, or about its key."""
        self.add("warning", slug, path, message, help, self._locate(path, key=key))

    def add(
        self,
        severity: Literal["error", "warning"],
        slug: str,
        path: SpecPath,
        message: str,
        help: str | None,
        span: Span | None,
    ) -> None:
        """Adds a finding whose place is known; a repeated one is dropped."""
        self.extend([Diagnostic(severity, slug, format_path(path), message, span, help)])

    def extend(self, diagnostics: Iterable[Diagnostic]) -> None:
        """Adds the findings of another report."""
        for finding in diagnostics:
            identity = (finding.slug, finding.message, finding.span or finding.path)
            self._diagnostics.setdefault(identity, finding)

    @property
    def diagnostics(self) -> tuple[Diagnostic, ...]:
        """All findings by file, line and column; those without a place keep their order, last."""
        return tuple(sorted(self._diagnostics.values(), key=_order))

    @property
    def errors(self) -> tuple[Diagnostic, ...]:
        """The findings that make the spec wrong."""
        return tuple(d for d in self.diagnostics if d.severity == "error")

    @property
    def warnings(self) -> tuple[Diagnostic, ...]:
        """The findings that leave the spec usable."""
        return tuple(d for d in self.diagnostics if d.severity == "warning")

    def raise_errors(self) -> None:
        """Raises all findings if one of them is an error.

        Raises:
            SpecError: when there is an error.
        """
        if self.errors:
            raise SpecError(self.diagnostics)


def format_path(path: SpecPath) -> str:
    """`("stages", 0, "wiring", "p")` as `stages[0].wiring.p`; odd keys are quoted."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if part.isidentifier() else f".{part!r}"
    return text.removeprefix(".")


def render(diagnostics: Iterable[Diagnostic], color: bool = False) -> str:
    """The findings for a terminal, each with its source line and carets; blank lines between."""
    return "\n\n".join(_render_one(diagnostic, color) for diagnostic in diagnostics)


def suggest(
    name: str, known: Iterable[str], otherwise: Iterable[str] | None = None
) -> tuple[str | None, str | None]:
    """A hint with the nearest of the `known` names and what is allowed, and the nearest alone.

    `otherwise` replaces `known` in the list of what is allowed; where no known name is near, the
    nearest of those is meant.
    """
    known = list(known)
    listed = known if otherwise is None else list(otherwise)
    near = difflib.get_close_matches(name, known, n=1)
    close = next(iter(near or difflib.get_close_matches(name, listed, n=1)), None)
    allowed = f"one of: {', '.join(listed)}" if listed else None
    if close is None:
        return allowed, None
    return f"did you mean {close!r}?" + (f" ({allowed})" if allowed else ""), close


def described(value: Any) -> str:
    """What was found, for messages: `the string 'six'`, `a list`, `null`, `3.0`."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    shown = text if len(text) <= 40 else f"{text[:36]}..."
    return f"the string {shown}" if isinstance(value, str) else shown


def _order(diagnostic: Diagnostic) -> tuple[bool, tuple[str | int, ...], int, int]:
    span = diagnostic.span
    if span is None:
        return (True, (), 0, 0)
    # Numbers compare as numbers: `--set #2` comes before `--set #11`.
    parts = re.split(r"([0-9]+)", span.file)
    file = tuple(int(part) if part.isdecimal() else part for part in parts)
    return (False, file, span.line, span.column)


def _render_one(diagnostic: Diagnostic, color: bool) -> str:
    def paint(style: str, text: str) -> str:
        return f"{_ANSI[style]}{text}{_ANSI['end']}" if color else text

    head = paint(diagnostic.severity, f"{diagnostic.severity}[{diagnostic.slug}]")
    path = f" {diagnostic.path}:" if diagnostic.path else ""
    lines = [f"{head}:{path} {diagnostic.message}"]
    gutter = ""
    if span := diagnostic.span:
        place = f"{_display_file(span.file)}:{span.line}:{span.column}"
        lines.append(f"{paint('frame', '  -->')} {place}")
        number = str(span.line)
        gutter = " " * len(number)
        text, before, carets = _window(span)
        bar = paint("frame", "|")
        lines += [
            f"{gutter} {bar}",
            f"{paint('frame', number)} {bar} {text}".rstrip(),
            f"{gutter} {bar} {before}{paint(diagnostic.severity, carets)}",
        ]
    if diagnostic.help:
        lines.append(f"{gutter} {paint('frame', '=')} help: {diagnostic.help}")
    return "\n".join(lines)


def _display_file(file: str) -> str:
    """`file` as the reader would type it: relative when it lies below the current folder."""
    path = Path(file)
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        return str(path.relative_to(Path.cwd()))
    return file


def _window(span: Span) -> tuple[str, str, str]:
    """The part of the source line to show, the blanks below it before the carets, the carets."""
    text = "".join(c if c.isprintable() or c == "\t" else "\ufffd" for c in span.text)
    start = min(span.column - 1, len(text))
    stop = min(start + max(span.width, 1), max(len(text), start + 1))
    if len(text) > _MAX_COLUMNS:
        left = max(0, min(start - _MAX_COLUMNS // 3, len(text) - _MAX_COLUMNS))
        text = text[left : left + _MAX_COLUMNS]
        start, stop = start - left, min(stop - left, _MAX_COLUMNS)
        if left:
            text, start, stop = f"... {text}", start + 4, stop + 4
    before = "".join("\t" if c == "\t" else " " * _columns(c) for c in text[:start])
    return text, before, "^" * max(1, sum(map(_columns, text[start:stop])))


def _columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
