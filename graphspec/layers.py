"""What a spec says in the end: its file, the files it extends, stage defaults, overrides.

Every value keeps the place it came from. Merge rule, lower layer first: mappings merge key by
key; a mapping of another `kind` replaces the one below; a bare name where a mapping with a
kind may stand is that kind; anything else replaces what is below.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from graphspec.errors import Report, Span, SpecPath, suggest
from graphspec.source import MAX_DEPTH, Tree, decode, read

LAYER_KEYS = ("extends", "stage_defaults")
"""Keys of a spec file that are gone once its layers are merged."""

_MAX_CHAIN = 16
_END_NODES = ("input_node", "output_node")
_SEGMENT = re.compile(r"(?P<key>[A-Za-z_][A-Za-z0-9_-]*|\*)|(?P<index>-?[0-9]+)")


def read_layers(
    text: str, file: str, overrides: Sequence[str], report: Report, path: Path | None = None
) -> Tree | None:
    """The merged tree of a spec.

    None, with findings, when a whole file, stage or `stage_defaults` is missing from it:
    whatever else could be found would only follow from that.

    `path` is where the text was read; `extends` is relative to its folder.
    """
    folder, chain = (path.parent, (Path(os.path.realpath(path)),)) if path else (Path(), ())
    files = _Files(report)
    tree = files.read_chain(text, file, folder, chain)
    if tree is None or files.have_holes:
        return None
    arguments = [_parse_override(n, text, report) for n, text in enumerate(overrides, start=1)]
    parsed = [override for override in arguments if override]
    for override in parsed:
        if override.is_for_defaults:
            tree = override.apply(tree, report)
    tree = _under_stages(tree, report)
    if tree is None:
        return None
    for override in parsed:
        if not override.is_for_defaults:
            tree = override.apply(tree, report)
    return _spell_out_kinds(tree)


def merge(lower: Tree, upper: Tree) -> Tree:
    """`upper` laid over `lower`, by the rule at the head of this file."""
    if lower.mapping is not None or upper.mapping is not None:
        lower, upper = _as_kind(lower), _as_kind(upper)
    below, above = lower.mapping, upper.mapping
    if below is None or above is None or _is_other_kind(below, above):
        return upper
    merged = dict(below)
    for key, value in above.items():
        merged[key] = merge(merged[key], value) if key in merged else value
    return replace(upper, value=merged)


def _as_kind(tree: Tree) -> Tree:
    """A bare name as a mapping with that kind."""
    if not isinstance(tree.value, str):
        return tree
    return replace(tree, value={"kind": Tree(tree.value, tree.span, tree.key)})


def _is_other_kind(below: dict[str, Tree], above: dict[str, Tree]) -> bool:
    kinds = [tree["kind"].value for tree in (below, above) if "kind" in tree]
    return len(kinds) == 2 and kinds[0] != kinds[1]


class _Files:
    """Reads a spec and what it extends, each file once.

    `have_holes` says whether a whole file or stage is missing from what was read.
    """

    def __init__(self, report: Report) -> None:
        self.have_holes = False
        self._report = report
        self._read: dict[Path, Tree | None] = {}

    def read_chain(
        self, text: str, file: str, folder: Path, chain: tuple[Path, ...]
    ) -> Tree | None:
        """The tree of `text` over those of the files it extends."""
        tree = read(text, file, self._report)
        if tree is None or not self._is_mapping(tree):
            return None
        entries = dict(tree.mapping or {})
        extends = entries.pop("extends", None)
        tree = replace(tree, value=entries)
        parents = self._parents(extends, folder, chain) if extends else []
        merged = Tree({}, tree.span)
        for layer in (*parents, tree):
            merged = self._lay_over(merged, layer)
        return merged

    def _is_mapping(self, tree: Tree) -> bool:
        if tree.mapping is not None:
            return True
        if tree.value is None:
            hint = "`graphc init` writes a spec to start from"
            self._report.add("error", "empty-file", (), "the spec is empty", hint, tree.span)
        else:
            what = "a list" if tree.items is not None else "a single value"
            message = f"a spec is a mapping (`version: 1`, `name: ...`), not {what}"
            self._report.add("error", "root-type", (), message, None, tree.span)
        return False

    def _parents(self, extends: Tree, folder: Path, chain: tuple[Path, ...]) -> list[Tree]:
        listed = extends.items if extends.items is not None else [extends]
        trees: list[Tree] = []
        for entry in listed:
            name = entry.value
            if not isinstance(name, str) or not name or "\0" in name:
                self._error(
                    entry.span, "wrong-type", "must be the path of a file, or a list of them"
                )
            elif tree := self._parent(name, entry.span, folder, chain):
                trees.append(tree)
        self.have_holes |= len(trees) < len(listed)
        return trees

    def _parent(self, name: str, span: Span, folder: Path, chain: tuple[Path, ...]) -> Tree | None:
        path = folder / name
        known = Path(os.path.realpath(path))
        if known in chain:
            cycle = " -> ".join(p.name for p in (*chain[chain.index(known) :], known))
            self._error(span, "extends-cycle", f"the files extend each other: {cycle}")
            return None
        if len(chain) == _MAX_CHAIN:
            self._error(span, "extends-depth", f"more than {_MAX_CHAIN} files extend each other")
            return None
        if known not in self._read:
            self._read[known] = self._read_file(path, span, (*chain, known))
        return self._read[known]

    def _read_file(self, path: Path, span: Span, chain: tuple[Path, ...]) -> Tree | None:
        try:
            data = path.read_bytes()
        except OSError as error:
            hint = f"the path is relative to the file that says it: {path.parent.resolve()}"
            self._error(
                span, "extends-unreadable", f"cannot read {str(path)!r}: {error.strerror}", hint
            )
            return None
        text = decode(data, str(path), self._report)
        return None if text is None else self.read_chain(text, str(path), path.parent, chain)

    def _error(self, span: Span, slug: str, message: str, help: str | None = None) -> None:
        self._report.add("error", slug, ("extends",), message, help, span)

    def _lay_over(self, lower: Tree, upper: Tree) -> Tree:
        """`merge` for whole specs: stages given by name merge into the stages below."""
        entries = dict(upper.mapping or {})
        stages = entries.get("stages")
        if stages is not None and stages.mapping is not None:
            below = (lower.mapping or {}).get("stages")
            entries["stages"] = self._merge_stages(below, stages)
        return merge(lower, replace(upper, value=entries))

    def _merge_stages(self, lower: Tree | None, upper: Tree) -> Tree:
        stages = list(lower.items or []) if lower else []
        for name, partial in (upper.mapping or {}).items():
            stage = self._named(name, partial)
            index = _index_of_stage(stages, name)
            if index is None:
                stages.append(stage)
            else:
                stages[index] = merge(stages[index], stage)
        return replace(upper, value=stages)

    def _named(self, name: str, partial: Tree) -> Tree:
        """A stage of a mapping of stages, with its key as its name."""
        place = partial.key or partial.span
        entries = partial.mapping
        if entries is None and partial.value is not None:
            message = f"stage {name!r} must be a mapping"
            self._report.add("error", "wrong-type", ("stages", name), message, None, partial.span)
            self.have_holes = True
        given = (entries or {}).get("name")
        if given and given.value != name:
            message = f"the stage is called {name!r} by its key"
            path = ("stages", name, "name")
            self._report.add("error", "stage-name", path, message, "remove `name`", given.span)
        return Tree({**(entries or {}), "name": Tree(name, place)}, partial.span)


def _index_of_stage(stages: Iterable[Tree], name: str) -> int | None:
    for index, stage in enumerate(stages):
        given = (stage.mapping or {}).get("name")
        if given and given.value == name:
            return index
    return None


def _under_stages(tree: Tree, report: Report) -> Tree | None:
    """The tree with `stage_defaults` laid under each stage; None if those are no mapping."""
    entries = dict(tree.mapping or {})
    defaults, stages = entries.pop("stage_defaults", None), entries.get("stages")
    if defaults and defaults.mapping is None:
        path, span = ("stage_defaults",), defaults.span
        report.add("error", "wrong-type", path, "must be a mapping, like a stage", None, span)
        return None
    if defaults and stages and stages.items is not None:
        laid = [s if s.mapping is None else merge(defaults, s) for s in stages.items]
        entries["stages"] = replace(stages, value=laid)
    return replace(tree, value=entries)


def _spell_out_kinds(tree: Tree) -> Tree:
    """The tree with every bare name that stands for a kind as a mapping."""
    spelled = _kinds_spelled_out(tree, ("stem", "head"))
    return _changed(spelled, ("stages",), lambda stages: _each(stages, _stage_spelled_out))


def _stage_spelled_out(stage: Tree) -> Tree:
    stage = _kinds_spelled_out(stage, ("block", *_END_NODES, "wiring", "edge_weights"))
    stage = _changed(stage, _END_NODES, _weights_spelled_out)
    stage = _changed(
        stage, ("nodes",), lambda nodes: _kinds_spelled_out(nodes, nodes.mapping or ())
    )
    return _changed(
        stage,
        ("wiring",),
        lambda wiring: _changed(
            wiring, ("edges",), lambda edges: _each(edges, _weights_spelled_out)
        ),
    )


def _weights_spelled_out(tree: Tree) -> Tree:
    return _kinds_spelled_out(tree, ("edge_weights",))


def _kinds_spelled_out(tree: Tree, keys: Iterable[str]) -> Tree:
    return _changed(tree, keys, _as_kind)


def _changed(tree: Tree, keys: Iterable[str], change: Callable[[Tree], Tree]) -> Tree:
    """A mapping with the values of the keys that it has changed; anything else as it is."""
    entries = tree.mapping
    if entries is None:
        return tree
    changed = {key: change(entries[key]) for key in keys if key in entries}
    return replace(tree, value=entries | changed)


def _each(tree: Tree, change: Callable[[Tree], Tree]) -> Tree:
    """A list with every item changed; anything else as it is."""
    return tree if tree.items is None else replace(tree, value=[change(i) for i in tree.items])


@dataclass(frozen=True)
class _Segment:
    """One step of an override's path, and where it stands in the argument."""

    part: str | int
    span: Span


@dataclass(frozen=True)
class _Override:
    """`path=value`, or `~path` (`value` None), in the order it was given."""

    segments: tuple[_Segment, ...]
    value: Tree | None

    @property
    def is_for_defaults(self) -> bool:
        return self.segments[0].part == "stage_defaults"

    def apply(self, tree: Tree, report: Report) -> Tree:
        """The tree with the override laid over it; the same, with a finding, if it fits nowhere."""
        try:
            return self._at(tree, 0)
        except _NoPlaceError as error:
            path: SpecPath = tuple(segment.part for segment in self.segments[: error.depth + 1])
            span = self.segments[error.depth].span
            report.add("error", "override-path", path, error.message, error.help, span)
            return tree

    def _at(self, tree: Tree | None, depth: int) -> Tree:
        """The new value in place of `tree`, which the first `depth` segments lead to."""
        if depth == len(self.segments):
            assert self.value is not None
            return merge(tree, self.value) if tree else self.value
        segment = self.segments[depth]
        is_dropped = self.value is None and depth == len(self.segments) - 1
        if tree is not None and tree.items is not None:
            return self._in_list(tree, tree.items, segment, depth, is_dropped)
        return self._in_mapping(tree, segment, depth, is_dropped)

    def _in_list(
        self, tree: Tree, items: list[Tree], segment: _Segment, depth: int, is_dropped: bool
    ) -> Tree:
        chosen = _chosen_items(items, segment.part, depth)
        if is_dropped:
            return replace(tree, value=[x for i, x in enumerate(items) if i not in chosen])
        changed = [self._at(x, depth + 1) if i in chosen else x for i, x in enumerate(items)]
        return replace(tree, value=changed)

    def _in_mapping(
        self, tree: Tree | None, segment: _Segment, depth: int, is_dropped: bool
    ) -> Tree:
        part, tree = segment.part, _as_kind(tree or Tree({}, segment.span, segment.span))
        entries = tree.mapping
        if entries is None:
            raise _NoPlaceError(depth, "what is above this is neither a mapping nor a list")
        if isinstance(part, int):
            raise _NoPlaceError(depth, "what is above this is a mapping", "write a key")
        if self.value is None and part not in entries and part != "*":
            raise _no_such("key", part, entries, depth)
        chosen = set(entries) if part == "*" else {part}
        if is_dropped:
            return replace(tree, value={k: v for k, v in entries.items() if k not in chosen})
        changed = {key: self._at(entries.get(key), depth + 1) for key in chosen}
        return replace(
            tree, value=changed if _is_other_kind(entries, changed) else entries | changed
        )


def _chosen_items(items: list[Tree], part: str | int, depth: int) -> set[int]:
    """The indices of the list items that a segment names."""
    if part == "*":
        return set(range(len(items)))
    if isinstance(part, int):
        if -len(items) <= part < len(items):
            return {part % len(items)}
        raise _NoPlaceError(depth, f"there is no item {part}; the list has {len(items)}")
    index = _index_of_stage(items, part)
    if index is not None:
        return {index}
    names = [(item.mapping or {}).get("name") for item in items]
    raise _no_such("stage", part, [str(name.value) for name in names if name], depth)


class _NoPlaceError(Exception):
    """An override's path leads nowhere at segment `depth`."""

    def __init__(self, depth: int, message: str, help: str | None = None) -> None:
        super().__init__(message)
        self.depth, self.message, self.help = depth, message, help


def _no_such(noun: str, name: str, known: Iterable[str], depth: int) -> _NoPlaceError:
    return _NoPlaceError(depth, f"there is no {noun} {name!r} here", suggest(name, known)[0])


def _parse_override(number: int, text: str, report: Report) -> _Override | None:
    file = f"--set #{number}"
    drops = text.startswith("~")
    path, equals, value = text[1:].partition("=") if drops else text.partition("=")
    start = 1 if drops else 0

    def refuse(column: int, width: int, message: str, help: str) -> None:
        span = Span(file, 1, column + 1, max(width, 1), text)
        report.add("error", "override-syntax", (), message, help, span)

    if drops == bool(equals):
        what = "`~path` takes no value" if drops else "there is no `=`"
        refuse(len(path) + start, 1, what, "write path=value, or ~path to drop a key")
        return None
    segments = _parse_path(
        path, start, lambda column, width: Span(file, 1, column + 1, width, text)
    )
    if isinstance(segments, int):
        hint = "write keys with dots, stages by name or [index]: stages.layer2.depth=6"
        refuse(segments, 1, "this is not a path", hint)
        return None
    if drops:
        return _Override(segments, None)
    # Blanks in place of the path keep the columns of the value those of the argument.
    padded = " " * (len(path) + 1) + value
    tree = read(padded, file, report, lines=text.splitlines() or [""])
    return None if tree is None else _Override(segments, replace(tree, key=segments[-1].span))


def _parse_path(
    path: str, start: int, span: Callable[[int, int], Span]
) -> tuple[_Segment, ...] | int:
    """The segments of `a.b[2].*`, or the column where it stops being a path."""
    segments: list[_Segment] = []
    column, end = 0, len(path)
    while True:
        match = _SEGMENT.match(path, column)
        bracket = column < end and path[column] == "["
        if bracket and segments:
            match = _SEGMENT.match(path, column + 1)
            if not match or not match["index"] or path[match.end() : match.end() + 1] != "]":
                return start + column
        if not match or len(segments) == MAX_DEPTH:
            return start + column
        part = int(match["index"]) if match["index"] else match["key"]
        segments.append(_Segment(part, span(start + match.start(), match.end() - match.start())))
        column = match.end() + bool(bracket)
        if column == end:
            return tuple(segments)
        if path[column] == ".":
            column += 1
        elif path[column] != "[":
            return start + column
