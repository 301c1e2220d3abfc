"""YAML text as a tree whose keys and values know where they stand. Knows nothing of networks.

Scalars follow the core schema of YAML 1.2: `1e-4` is a number, `on` and `no` are strings.
Everything wrong with the text itself (syntax, encoding, duplicate keys, size) is found here.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, cast

import yaml

from graphspec.errors import Provenance, Report, Span, SpecPath, described

MAX_DEPTH = 64
MAX_VALUES = 1_000_000

Scalar = str | int | float | bool | None

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_BREAK = re.compile(r"\r\n|[\r\n\x85\u2028\u2029]")
_FORBIDDEN = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufeff\ufffe\uffff]"
)
_WORDS: dict[str, Scalar] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL_FLOAT = re.compile(r"([-+]?)\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_MAX_DIGITS = 1000
_TAG = "tag:yaml.org,2002:"
_SCALAR_TAGS: dict[str, type | tuple[type, ...]] = {
    "int": int,
    "float": (int, float),
    "bool": bool,
    "null": type(None),
}
_SYNTAX_HELP = (
    ("tab character", "indent with spaces"),
    ("cannot start any token", "quote the value; a spec holds no templates"),
    ("mapping values are not allowed", "check the indentation, or quote a value that holds ': '"),
    ("did not find expected key", "check the indentation of this line"),
    ("did not find expected '-'", "check the indentation of this line"),
    ("did not find expected ','", "close the bracket, or put a comma before this"),
    ("expected ':'", "a key needs a colon and a space after it"),
    ("unexpected end of stream", "close the quotation marks"),
)


@dataclass(frozen=True, slots=True)
class Tree:
    """A YAML value: a scalar, a list of trees, or trees by key, with its place.

    `key` is the place of the key that leads here, if one does.
    """

    value: Scalar | list[Tree] | dict[str, Tree]
    span: Span
    key: Span | None = None

    @property
    def mapping(self) -> dict[str, Tree] | None:
        """The trees by key, if this is a mapping."""
        return self.value if isinstance(self.value, dict) else None

    @property
    def items(self) -> list[Tree] | None:
        """The trees in order, if this is a list."""
        return self.value if isinstance(self.value, list) else None


def resolve_scalar(text: str) -> Scalar:
    """What a plain scalar means under the core schema of YAML 1.2."""
    if text in _WORDS:
        return _WORDS[text]
    if len(text) > _MAX_DIGITS:
        return text
    if _INTEGER.fullmatch(text):
        return int(text, 0 if text[:2] in ("0o", "0x") else 10)
    if _FLOAT.fullmatch(text):
        return float(text)
    if match := _SPECIAL_FLOAT.fullmatch(text):
        return float("nan") if match[3] else float(f"{match[1]}inf")
    return text


def decode(data: bytes, file: str, report: Report) -> str | None:
    """The text of a spec file; None, and a finding, when it is not UTF-8."""
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        before = _BREAK.split(data[: error.start].decode())
        rest = _BREAK.split(data[error.start :].decode(errors="replace"))
        span = Span(file, len(before), len(before[-1]) + 1, 1, before[-1] + rest[0])
        message = f"byte 0x{data[error.start]:02x} is not UTF-8 text"
        report.add("error", "encoding", (), message, "save the file as UTF-8", span)
        return None


def read(text: str, file: str, report: Report, *, lines: list[str] | None = None) -> Tree | None:
    """The tree of a YAML document, null if it is empty; None, and a finding, when it is not YAML.

    `lines` are shown in errors in place of the text's own. Duplicate keys and foreign tags
    are findings too, but leave a tree.
    """
    text = text.removeprefix("\ufeff")
    reader = _Reader(file, lines or _BREAK.split(text), report)
    if bad := _FORBIDDEN.search(text):
        before = _BREAK.split(text[: bad.start()])
        where = reader.span(len(before) - 1, len(before[-1]))
        reader.error("yaml-syntax", f"character U+{ord(bad[0]):04X} is not allowed", where)
        return None
    try:
        return reader.read(yaml.parse(text, Loader=_LOADER))
    except yaml.MarkedYAMLError as error:
        reader.syntax_error(error)
    except yaml.YAMLError as error:
        reader.error("yaml-syntax", str(error), reader.span(0, 0))
    except _StopReadingError:
        pass
    return None


def plain(tree: Tree) -> Any:
    """The values of a tree as dicts, lists and scalars."""
    if isinstance(tree.value, dict):
        return {key: plain(value) for key, value in tree.value.items()}
    if isinstance(tree.value, list):
        return [plain(item) for item in tree.value]
    return tree.value


def provenance(tree: Tree) -> Provenance:
    """Where everything in a tree stands."""
    values: dict[SpecPath, Span] = {}
    keys: dict[SpecPath, Span] = {}
    for path, below in walk(tree):
        values[path] = below.span
        if below.key:
            keys[path] = below.key
    return Provenance(values, keys)


def walk(tree: Tree, path: SpecPath = ()) -> Iterator[tuple[SpecPath, Tree]]:
    """A tree and all trees in it, each with its path, outermost first."""
    yield path, tree
    if isinstance(tree.value, dict):
        for key, value in tree.value.items():
            yield from walk(value, (*path, key))
    elif isinstance(tree.value, list):
        for index, item in enumerate(tree.value):
            yield from walk(item, (*path, index))


class _StopReadingError(Exception):
    """Reading on would be pointless or dangerous; the reason has been reported."""


@dataclass
class _Collection:
    """A list or mapping whose end has not been read."""

    span: Span
    key: Span | None
    anchor: str | None
    is_mapping: bool
    is_flow: bool
    size: int = 1
    items: list[Tree] = field(default_factory=list[Tree])
    entries: dict[str, Tree] = field(default_factory=dict[str, Tree])
    merged: list[Tree] = field(default_factory=list[Tree])
    pending: Tree | None = None
    """A key that waits for its value."""
    pending_merge: bool = False
    """Whether that key is `<<`."""


class _Reader:
    """Builds one tree out of parser events, with a stack in place of recursion."""

    def __init__(self, file: str, lines: list[str], report: Report) -> None:
        self._file, self._lines, self._report = file, lines, report
        self._stack: list[_Collection] = []
        self._anchors: dict[str, tuple[Tree, int] | None] = {}
        self._root = Tree(None, self.span(0, 0))
        self._size = 0

    def span(self, line: int, column: int, width: int = 1) -> Span:
        """A place from 0-based marks, moved into the text if it lies behind its end."""
        line = min(line, len(self._lines) - 1)
        text = self._lines[line]
        column = min(column, len(text))
        return Span(self._file, line + 1, column + 1, max(1, min(width, len(text) - column)), text)

    def error(self, slug: str, message: str, span: Span, help: str | None = None) -> None:
        self._report.add("error", slug, (), message, help, span)

    def syntax_error(self, error: yaml.MarkedYAMLError) -> None:
        mark, context = error.problem_mark, error.context_mark
        message = error.problem or "not YAML"
        if context and mark and (context.line, context.column) != (mark.line, mark.column):
            start = f"line {context.line + 1}, column {context.column + 1}"
            message += f", {error.context} that starts at {start}"
            is_at_end = not any(line.strip() for line in self._lines[mark.line :])
            mark = context if is_at_end or "expected ':'" in message else mark
        help = next((help for part, help in _SYNTAX_HELP if part in message), None)
        span = self.span(mark.line, mark.column) if mark else self.span(0, 0)
        self.error("yaml-syntax", message, span, help)

    def read(self, events: Iterator[Any]) -> Tree:
        documents = 0
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents == 2:
                    message = "a second document starts here; only one is allowed"
                    span = self._event_span(event)
                    self.error("yaml-documents", message, span, "remove the line `---`")
                    raise _StopReadingError
            elif isinstance(event, yaml.CollectionStartEvent):
                self._open(event)
            elif isinstance(event, yaml.CollectionEndEvent):
                self._close(event)
            elif isinstance(event, yaml.ScalarEvent):
                self._scalar(event)
            elif isinstance(event, yaml.AliasEvent):
                self._alias(event)
        return self._root

    def _event_span(self, event: Any) -> Span:
        start, end = event.start_mark, event.end_mark
        width = (
            end.column - start.column if start.line == end.line else len(self._lines[start.line])
        )
        return self.span(start.line, start.column, width)

    def _grow(self, size: int, span: Span) -> None:
        self._size += size
        if self._size > MAX_VALUES:
            message = f"more than {MAX_VALUES:,} values, aliases counted as often as they are used"
            self.error("too-large", message, span, "build large specs in Python")
            raise _StopReadingError
        for collection in self._stack:
            collection.size += size

    def _open(self, event: Any) -> None:
        span, is_mapping = self._event_span(event), isinstance(event, yaml.MappingStartEvent)
        if len(self._stack) == MAX_DEPTH:
            self.error("too-deep", f"nested deeper than {MAX_DEPTH} levels", span)
            raise _StopReadingError
        self._grow(1, span)
        if event.tag not in (None, "!", _TAG + ("map" if is_mapping else "seq")):
            self._refuse_tag(event.tag, span)
        if event.anchor:
            self._anchors[event.anchor] = None
        self._stack.append(
            _Collection(span, self._key_of_next(), event.anchor, is_mapping, bool(event.flow_style))
        )

    def _close(self, event: Any) -> None:
        top, end = self._stack.pop(), event.end_mark
        if top.is_flow and end.line + 1 == top.span.line:
            top.span = self.span(end.line, top.span.column - 1, end.column + 1 - top.span.column)
        value: list[Tree] | dict[str, Tree] = top.items
        if top.is_mapping:
            for source in top.merged:
                for key, tree in cast("dict[str, Tree]", source.value).items():
                    top.entries.setdefault(key, tree)
            value = top.entries
        self._place(Tree(value, self._collection_span(top), top.key), top.anchor, top.size)

    def _collection_span(self, top: _Collection) -> Span:
        """A block collection stands where its key stands, or where its first entry does."""
        if top.is_flow:
            return top.span
        if top.key:
            return top.key
        first = next(iter(top.entries.values() if top.is_mapping else top.items), None)
        return (first.key or first.span) if first else top.span

    def _scalar(self, event: Any) -> None:
        span = self._event_span(event)
        self._grow(1, span)
        is_plain = event.implicit[0] and event.tag is None
        value: Scalar = resolve_scalar(event.value) if is_plain else event.value
        if event.tag not in (None, "!", f"{_TAG}str"):
            value = self._tagged(event.tag, event.value, span)
        is_merge = is_plain and event.value == "<<"
        key = self._key_of_next()
        is_nothing = is_plain and not event.value
        tree = Tree(value, key if key and is_nothing else span, key)
        self._place(tree, event.anchor, 1, is_merge=is_merge)

    def _tagged(self, tag: str, text: str, span: Span) -> Scalar:
        types = _SCALAR_TAGS.get(tag.removeprefix(_TAG))
        if types is None:
            self._refuse_tag(tag, span)
            return text
        value = resolve_scalar(text)
        if not isinstance(value, types):
            self.error("yaml-tag", f"{text!r} is not of type {tag.removeprefix(_TAG)}", span)
        return float(value) if isinstance(value, int) and types == (int, float) else value

    def _refuse_tag(self, tag: str, span: Span) -> None:
        shown, written = tag.replace(_TAG, "!!"), span.text[span.column - 1 :].split(maxsplit=1)
        span = replace(span, width=len(written[0]) if written else 1)
        self.error(
            "yaml-tag", f"tag {shown!r} is not allowed", span, "a spec holds plain data only"
        )

    def _alias(self, event: Any) -> None:
        span = self._event_span(event)
        if event.anchor not in self._anchors:
            self.error("yaml-alias", f"no anchor &{event.anchor} before this alias", span)
            raise _StopReadingError
        target = self._anchors[event.anchor]
        if target is None:
            self.error("yaml-alias", f"*{event.anchor} lies in the value that it names", span)
            raise _StopReadingError
        tree, size = target
        self._grow(size, span)
        self._place(Tree(tree.value, tree.span, self._key_of_next()), None, size)

    def _key_of_next(self) -> Span | None:
        """The place of the key whose value the next event starts."""
        pending = self._stack[-1].pending if self._stack else None
        return pending.span if pending else None

    def _place(self, tree: Tree, anchor: str | None, size: int, *, is_merge: bool = False) -> None:
        """Puts a finished value where it belongs: root, item, key, or value of a key."""
        if anchor:
            self._anchors[anchor] = (tree, size)
        if not self._stack:
            self._root = tree
            return
        top = self._stack[-1]
        if not top.is_mapping:
            top.items.append(tree)
        elif top.pending is None:
            top.pending, top.pending_merge = tree, is_merge
        else:
            key, top.pending = top.pending, None
            self._enter(top, key, tree)

    def _enter(self, top: _Collection, key: Tree, value: Tree) -> None:
        if top.pending_merge:
            self._merge(top, value)
        elif not isinstance(key.value, str):
            message = f"a key must be a name, not {described(plain(key))}"
            self.error("key-type", message, key.span, "quote the key")
        elif first := top.entries.get(key.value):
            line = first.key.line if first.key else 0
            message = f"duplicate key {key.value!r}; first defined at line {line}"
            self.error("duplicate-key", message, key.span, "remove one of the two")
        else:
            top.entries[key.value] = value

    def _merge(self, top: _Collection, value: Tree) -> None:
        sources = [value] if value.items is None else value.items
        for source in sources:
            if source.mapping is None:
                span = value.key or source.span
                self.error("yaml-merge", "`<<` takes a mapping or a list of mappings", span)
            else:
                top.merged.append(source)
