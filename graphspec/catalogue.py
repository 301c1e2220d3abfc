"""Which blocks, stems, heads and routers there are, and the parameters each takes.

Read from `catalogue.json`, which `python -m compiler.catalog` writes from the runtime's
constructors, so that a spec is checked without torch. Other packages bring a `catalogue.json` of
their own; an entry point in the group `graphc.catalogues` names the package.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from graphspec.errors import Report, SpecPath, described, suggest

FILE_NAME = "catalogue.json"
_TYPES: dict[str, tuple[str, type | tuple[type, ...]]] = {
    "integer": ("an integer", int),
    "number": ("a number", (int, float)),
    "boolean": ("true or false", bool),
    "string": ("a name", str),
    "array": ("a list", (list, tuple)),
    "null": ("null", type(None)),
}
_NUMBERS = ("integer", "number")
_STEM_KEYS = frozenset({"kind", "width", "stride"})
_HEAD_KEYS = frozenset({"kind", "num_classes"})
_BLOCK_KEYS = frozenset({"kind"})
_NODE_KEYS = frozenset({"kind", "width", "stride", "aggregate"})
_END_NODE_KEYS = _NODE_KEYS | {"edge_weights"}


@dataclass(frozen=True)
class Entry:
    """One kind: its parameters as JSON Schema by name, and what it asks of shapes.

    `divides` says which channel counts a parameter must divide; `strides` which strides it
    can have (None: any); `rounding` how the output size is rounded; `library` the package,
    other than torch, whose code it is.
    """

    doc: str
    params: Mapping[str, Mapping[str, Any]]
    required: tuple[str, ...]
    keeps_channels: bool
    divides: Mapping[str, tuple[str, ...]]
    strides: tuple[int, ...] | None
    rounding: Literal["ceil", "floor"]
    library: str | None = None

    @property
    def defaults(self) -> dict[str, Any]:
        """The values of the parameters that a spec may leave out."""
        return {
            name: tuple(schema["default"])
            if isinstance(schema["default"], list)
            else schema["default"]
            for name, schema in self.params.items()
            if "default" in schema
        }

    def typed(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters given, `1` as `1.0` where a number need not be whole, lists as tuples."""
        return {
            name: float(value)
            if self.params[name].get("type") == "number" and isinstance(value, int)
            else _tuples(value)
            for name, value in given.items()
        }

    def complete(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """All parameters of the kind, in its own order: those given, the others by default."""
        values = self.defaults | self.typed(given)
        return {name: values[name] for name in self.params}


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


@dataclass(frozen=True)
class Catalogue:
    """Entries by kind; every block may be a stem too."""

    blocks: Mapping[str, Entry]
    stems: Mapping[str, Entry]
    heads: Mapping[str, Entry]
    routers: Mapping[str, Entry]


def _read_catalogue(paths: Iterable[Path]) -> Catalogue:
    roles: dict[str, dict[str, Entry]] = {}
    origins: dict[tuple[str, str], Path] = {}
    for path in paths:
        for role, kinds in json.loads(path.read_text(encoding="utf-8")).items():
            entries = roles.setdefault(role, {})
            for kind, fields in kinds.items():
                if kind in entries:
                    places = f"{origins[role, kind]} and {path}"
                    raise ValueError(f"two {role} are named {kind!r}: {places}; rename one")
                entries[kind], origins[role, kind] = _read_entry(fields), path
    return Catalogue(**{role: dict(sorted(entries.items())) for role, entries in roles.items()})


def _catalogues() -> Iterator[Path]:
    """Our own, and those of other packages, none of which is imported."""
    yield Path(__file__).with_name(FILE_NAME)
    for entry_point in entry_points(group="graphc.catalogues"):
        package = find_spec(entry_point.value)
        for folder in package.submodule_search_locations or () if package else ():
            if (Path(folder) / FILE_NAME).is_file():
                yield Path(folder) / FILE_NAME
                break
        else:
            warnings.warn(
                f"{entry_point.value} has no {FILE_NAME}, so no spec can use its blocks; write it "
                f"with `python -m compiler.catalog --package {entry_point.value}`",
                stacklevel=2,
            )


def _read_entry(fields: dict[str, Any]) -> Entry:
    return Entry(
        doc=fields["doc"],
        params=fields["params"],
        required=tuple(fields["required"]),
        keeps_channels=fields["keeps_channels"],
        divides={name: tuple(counts) for name, counts in fields["divides"].items()},
        strides=None if fields["strides"] is None else tuple(fields["strides"]),
        rounding=fields["rounding"],
        library=fields.get("library"),
    )


CATALOGUE = _read_catalogue(_catalogues())


def verify_blocks(data: Any, report: Report) -> set[SpecPath]:
    """Checks kinds and parameters of all blocks, stems, heads and routers of a spec.

    `data` is a spec as plain values, which may be wrong in any other way: what has not even
    the form of a block is passed over, as the models report it. Returns the paths that
    misspelt parameters were meant to have.
    """
    verifier = _Verifier(report)
    verifier.verify_network(_mapping(data))
    return verifier.meant


class _Verifier:
    """Walks over a spec; `meant` are the paths that misspelt parameters were meant to have."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self.meant: set[SpecPath] = set()

    def verify_network(self, spec: Mapping[str, Any]) -> None:
        self._call("stem", CATALOGUE.stems, spec.get("stem"), _STEM_KEYS, ("stem",))
        self._call("head", CATALOGUE.heads, spec.get("head"), _HEAD_KEYS, ("head",))
        stages = spec.get("stages")
        for index, stage in enumerate(stages if isinstance(stages, list | tuple) else ()):
            self._stage(_mapping(stage), ("stages", index))

    def _stage(self, stage: Mapping[str, Any], path: SpecPath) -> None:
        blocks = CATALOGUE.blocks
        self._call("block", blocks, stage.get("block"), _BLOCK_KEYS, (*path, "block"))
        for key in ("input_node", "output_node"):
            node = _mapping(stage.get(key))
            call = {"kind": "identity", **node}
            self._call("block", blocks, call, _END_NODE_KEYS, (*path, key))
        block, inputs = _mapping(stage.get("block")), stage.get("inputs")
        input_node = {"kind": "identity", **_mapping(stage.get("input_node"))}
        for name, node in _mapping(stage.get("nodes")).items():
            base = input_node if isinstance(inputs, list | tuple) and name in inputs else block
            self._node(base, _mapping(node), (*path, "nodes", name))
        for weights, place in _all_edge_weights(stage, path):
            kind = weights.get("router", "pooled_linear")
            if weights.get("kind") == "routed" and isinstance(kind, str):
                self._entry("router", CATALOGUE.routers, kind, (*place, "router"))

    def _node(self, base: Mapping[str, Any], node: Mapping[str, Any], path: SpecPath) -> None:
        """A node's own parameters, laid over those of `base` if that is of the same kind."""
        kind = base.get("kind") if node.get("kind") is None else node["kind"]
        inherits = kind == base.get("kind")
        if inherits and (not isinstance(kind, str) or kind not in CATALOGUE.blocks):
            return
        inherited = set(base) if inherits else set[str]()
        call = {**node, "kind": kind}
        self._call("block", CATALOGUE.blocks, call, _NODE_KEYS, path, inherited)

    def _call(
        self,
        noun: str,
        entries: Mapping[str, Entry],
        call: Any,
        reserved: frozenset[str],
        path: SpecPath,
        inherited: Iterable[str] = (),
    ) -> None:
        """A mapping with a kind, its parameters and the keys `reserved` for other things.

        `inherited` parameters are given elsewhere.
        """
        call = _mapping(call)
        kind = call.get("kind")
        entry = self._entry(noun, entries, kind, (*path, "kind")) if isinstance(kind, str) else None
        # Parameters of a node that computes nothing are verify.py's.
        if entry is None or kind == "identity":
            return
        given = {name: value for name, value in call.items() if name not in reserved}
        known = [*entry.params, *sorted(reserved - {"kind"})]
        free = [name for name in known if name not in call]
        for name, value in given.items():
            if name in entry.params:
                self._value(entry.params[name], value, (*path, name), name)
                continue
            hint, meant = suggest(name, free, otherwise=known)
            self.meant.add((*path, meant or ""))
            message = f"{noun} {kind!r} has no parameter {name!r}"
            self._report.error("unknown-parameter", (*path, name), message, hint, key=True)
        for name in entry.required:
            if name not in given and name not in inherited and (*path, name) not in self.meant:
                schema = entry.params[name]
                message = f"{noun} {kind!r} needs the parameter {name!r}: {schema['description']}"
                hint = f"add `{name}: ...`, {_allowed(schema)}"
                self._report.error("missing-parameter", (*path, name), message, hint)

    def _entry(
        self, noun: str, entries: Mapping[str, Entry], kind: str, path: SpecPath
    ) -> Entry | None:
        if kind in entries:
            return entries[kind]
        message = f"there is no {noun} {kind!r}"
        hint, _ = suggest(kind, entries, otherwise=_listed(entries))
        self._report.error("unknown-kind", path, message, hint)
        return None

    def _value(self, schema: Mapping[str, Any], value: Any, path: SpecPath, name: str) -> None:
        """A parameter, or an item of the parameter, of this name."""
        allowed = _allowed(schema)
        description = f"`{name}`: {schema['description']}" if "description" in schema else None
        if not _has_type(schema, value):
            message = f"must be {allowed}, not {described(value)}"
            self._report.error("wrong-type", path, message, description)
        elif isinstance(value, list | tuple):
            for index, item in enumerate(value):
                self._value(schema.get("items", {}), item, (*path, index), name)
        elif "enum" in schema:
            if value not in schema["enum"]:
                message = f"must be {allowed}, not {described(value)}"
                hint = suggest(value, schema["enum"])[0] if isinstance(value, str) else None
                self._report.error("not-allowed", path, message, hint or description)
        elif isinstance(value, float) and not math.isfinite(value):
            self._report.error("out-of-range", path, f"must be finite, is {value}", description)
        elif isinstance(value, int | float) and not _is_within(schema, value):
            message = f"must be {allowed}, is {described(value)}"
            self._report.error("out-of-range", path, message, description)


def _listed(entries: Mapping[str, Entry]) -> list[str]:
    """Kinds for a message: one by one, but only by their library where they are of another."""
    own = [kind for kind, entry in entries.items() if entry.library is None]
    return own + sorted({f"{entry.library}_..." for entry in entries.values() if entry.library})


def _all_edge_weights(
    stage: Mapping[str, Any], path: SpecPath
) -> Iterator[tuple[Mapping[str, Any], SpecPath]]:
    """All places of a stage that can name a router."""
    yield _mapping(stage.get("edge_weights")), (*path, "edge_weights")
    for key in ("input_node", "output_node"):
        node = _mapping(stage.get(key))
        yield _mapping(node.get("edge_weights")), (*path, key, "edge_weights")
    edges = _mapping(stage.get("wiring")).get("edges")
    for index, edge in enumerate(edges if isinstance(edges, list | tuple) else ()):
        place = (*path, "wiring", "edges", index, "edge_weights")
        yield _mapping(_mapping(edge).get("edge_weights")), place


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _has_type(schema: Mapping[str, Any], value: Any) -> bool:
    types = _type_names(schema)
    if not types:
        return True
    if isinstance(value, bool):
        return "boolean" in types
    return any(isinstance(value, _TYPES[name][1]) for name in types if name != "boolean")


def _is_within(schema: Mapping[str, Any], value: float) -> bool:
    return (
        value >= schema.get("minimum", value)
        and value <= schema.get("maximum", value)
        and value > schema.get("exclusiveMinimum", -math.inf)
        and value < schema.get("exclusiveMaximum", math.inf)
    )


def _type_names(schema: Mapping[str, Any]) -> list[str]:
    types = schema.get("type", [])
    return [types] if isinstance(types, str) else list(types)


def _allowed(schema: Mapping[str, Any]) -> str:
    """What a parameter may be, in words: `an integer >= 1`, `one of 1, 3, 5`."""
    if "enum" in schema:
        return f"one of {', '.join(map(str, schema['enum']))}"
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    bounds = " and ".join(f"{sign} {schema[key]}" for key, sign in signs.items() if key in schema)
    names = _type_names(schema)
    words = [f"{_TYPES[name][0]} {bounds if name in _NUMBERS else ''}".rstrip() for name in names]
    return " or ".join(words)
