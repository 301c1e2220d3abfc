"""From plain values to models: what pydantic finds wrong, said in the words of the language.

Rules of single fields only; `verify.py` has those that need more than one.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel, ValidationError

from graphspec.errors import Report, SpecPath, described, suggest
from graphspec.layers import LAYER_KEYS
from graphspec.spec import NetworkSpec

_UNIONS = ("wiring", "edge_weights")
"""Keys whose mapping is one of several models; pydantic's paths name the model after them."""

_TYPES = {
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "string": "a name",
    "tuple": "a list",
    "list": "a list",
    "dict": "a mapping",
    "model": "a mapping",
    "model_attributes": "a mapping",
}
_BOUNDS = {
    "greater_than_equal": ("ge", ">="),
    "greater_than": ("gt", ">"),
    "less_than_equal": ("le", "<="),
    "less_than": ("lt", "<"),
}
_YAML_1_1_BOOLEANS = ("yes", "no", "on", "off")


def validate(
    data: Mapping[str, Any], report: Report, meant: AbstractSet[SpecPath] = frozenset()
) -> NetworkSpec | None:
    """The spec that plain values describe; None, with findings, when they describe none.

    `meant` are keys that are known to be misspelt, so that they are not called missing too.
    """
    # Lax mode would take `on` or "3" for numbers; strict mode takes tuples, but no lists.
    try:
        spec = NetworkSpec.model_validate(_with_tuples(data), strict=True)
    except ValidationError as error:
        problems = [_Problem.of(dict(entry), data) for entry in error.errors(include_url=False)]
        _report(problems, data, report, meant)
        spec = None
    # `Literal[1]` compares with ==, and True == 1 == 1.0.
    version = data.get("version")
    if version == 1 and type(version) is not int:
        message = f"must be the integer 1, not {described(version)}"
        report.error("wrong-type", ("version",), message, "write `version: 1`")
        return None
    return spec


def _with_tuples(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _with_tuples(item) for key, item in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list | tuple) else value


@dataclass(frozen=True)
class _Problem:
    """An error of pydantic's at a path of the spec."""

    type: str
    path: SpecPath
    value: Any
    context: Mapping[str, Any]
    text: str
    is_about_key: bool

    @classmethod
    def of(cls, entry: dict[str, Any], data: Any) -> _Problem:
        path, value, is_about_key = _locate(entry["loc"], data)
        context: Mapping[str, Any] = entry.get("ctx", {})
        return cls(entry["type"], path, value, context, entry["msg"], is_about_key)

    @property
    def parent(self) -> SpecPath:
        return self.path[:-1]

    @property
    def name(self) -> str:
        return str(self.path[-1]) if self.path else ""


def _locate(loc: Sequence[str | int], data: Any) -> tuple[SpecPath, Any, bool]:
    """The spec path of a path of pydantic's, what stands there, and whether its key is meant.

    Union tags are dropped, and the ends of an edge written `[source, target]` get their index.
    """
    path: list[str | int] = []
    tag_may_follow = False
    for position, part in enumerate(loc):
        if part == "[key]" and position == len(loc) - 1:
            return tuple(path), path[-1], True
        if isinstance(data, Mapping):
            if tag_may_follow and part == data.get("kind"):
                tag_may_follow = False
                continue
            path.append(part)
            data = data.get(part)
        elif isinstance(data, list | tuple):
            index = part if isinstance(part, int) else ("source", "target").index(part)
            path.append(index)
            data = data[index] if index < len(data) else None
        else:
            path.append(part)
            data = None
        tag_may_follow = part in _UNIONS
    return tuple(path), data, False


def _report(
    problems: Sequence[_Problem], data: Any, report: Report, meant: AbstractSet[SpecPath]
) -> None:
    meant = set(meant)
    for problem in problems:
        if problem.type == "extra_forbidden":
            meant.add((*problem.parent, _report_unknown_key(problem, data, report)))
    for problem in problems:
        if problem.type != "extra_forbidden" and not _is_consequence(problem, meant):
            _REPORTERS.get(problem.type, _report_other)(problem, data, report)


def _is_consequence(problem: _Problem, meant: AbstractSet[SpecPath]) -> bool:
    """Whether another error says it all; `meant` are keys that were misspelt.

    1. A misspelt key is missing under its right name.
    2. A list is called too short when its items are wrong, however many it has.
    3. A kind that is not even a name is unknown to the catalogue.
    """
    if problem.type == "missing":
        return problem.path in meant
    if problem.type == "too_short":
        return len(problem.value) >= problem.context["min_length"]
    return problem.type in ("string_pattern_mismatch", "string_too_long") and problem.name == "kind"


def _report_unknown_key(problem: _Problem, data: Any, report: Report) -> str:
    """Reports the key and returns the one that was meant, or nothing."""
    given = _at(problem.parent, data)
    known = [name for model in _models(problem.parent, data) for name in model.model_fields]
    if not problem.parent:
        known += LAYER_KEYS
    free = [name for name in known if name not in given]
    hint, meant = suggest(problem.name, free, otherwise=known)
    report.error("unknown-key", problem.path, f"unknown key {problem.name!r}", hint, key=True)
    return meant or ""


def _report_missing(problem: _Problem, data: Any, report: Report) -> None:
    if isinstance(problem.path[-1], int):
        items = _at(problem.parent, data)
        _report_length(replace(problem, path=problem.parent, value=items), data, report)
        return
    description = _description(problem.path, data)
    message = f"required key {problem.name!r} is missing"
    if problem.path == ("version",):
        description = "add `version: 1`"
    report.error("missing-key", problem.path, message, description)


def _report_length(problem: _Problem, data: Any, report: Report) -> None:
    found = len(problem.value)
    needed = problem.context.get("min_length", problem.context.get("max_length"))
    if needed is None:
        needed = next((len(typing.get_args(t)) for t in _annotations(problem.path, data)), found)
    sign = "at least " if problem.context.get("min_length") else ""
    items = "item" if needed == 1 else "items"
    message = f"must have {sign}{needed} {items}, has {found}"
    report.error("wrong-length", problem.path, message, _description(problem.path, data))


def _report_type(problem: _Problem, data: Any, report: Report) -> None:
    wanted = _TYPES[problem.type.removesuffix("_type")]
    if any("kind" in model.model_fields for model in _models(problem.path, data)):
        wanted = "a mapping with a `kind`, or the kind alone"
    message = f"must be {wanted}, not {described(problem.value)}"
    hint = _description(problem.path, data)
    if problem.type == "bool_type" and str(problem.value).lower() in _YAML_1_1_BOOLEANS:
        hint = "write true or false"
    report.error("wrong-type", problem.path, message, hint)


def _report_range(problem: _Problem, data: Any, report: Report) -> None:
    key, sign = _BOUNDS[problem.type]
    bound = problem.context[key]
    bound = int(bound) if bound == int(bound) else bound
    message = f"must be {sign} {bound}, is {described(problem.value)}"
    report.error("out-of-range", problem.path, message, _description(problem.path, data))


def _report_multiple(problem: _Problem, data: Any, report: Report) -> None:
    step = problem.context["multiple_of"]
    message = f"must be a multiple of {step:g}, is {described(problem.value)}"
    report.error("out-of-range", problem.path, message, _description(problem.path, data))


def _report_infinite(problem: _Problem, data: Any, report: Report) -> None:
    message = f"must be finite, is {problem.value}"
    report.error("out-of-range", problem.path, message, _description(problem.path, data))


def _report_choice(problem: _Problem, data: Any, report: Report) -> None:
    expected = str(problem.context["expected"])
    names = re.findall(r"'([^']*)'", expected)
    hint = suggest(problem.value, names)[0] if names and isinstance(problem.value, str) else None
    message = f"must be {expected}, not {described(problem.value)}"
    report.error("not-allowed", problem.path, message, hint or _description(problem.path, data))


def _report_kind(problem: _Problem, data: Any, report: Report) -> None:
    kinds = [model.model_fields["kind"].default for model in _models(problem.path, data)]
    noun = {"edge_weights": "kind of edge weights"}.get(problem.name, problem.name)
    value = problem.value.get("kind")
    path = (*problem.path, "kind")
    if problem.type == "union_tag_not_found":
        message = "required key 'kind' is missing"
        report.error("missing-key", path, message, suggest("", kinds)[0])
    elif not isinstance(value, str):
        message = f"must be a name, not {described(value)}"
        report.error("wrong-type", path, message, suggest("", kinds)[0])
    else:
        message = f"there is no {noun} {value!r}"
        report.error("unknown-kind", path, message, suggest(value, kinds)[0])


def _report_name(problem: _Problem, data: Any, report: Report) -> None:
    del data
    message = f"{described(problem.value)} is not a name"
    if problem.type == "string_too_long":
        message = f"a name has at most {problem.context['max_length']} characters"
    hint = "lower-case letters, digits and _, starting with a letter"
    nearest = re.sub(r"[^a-z0-9_]+", "_", str(problem.value).lower()).strip("_")[:64]
    if nearest[:1].isalpha():
        hint += f", e.g. {nearest!r}"
    report.error("bad-name", problem.path, message, hint, key=problem.is_about_key)


def _report_other(problem: _Problem, data: Any, report: Report) -> None:
    del data
    text = problem.text.removeprefix("Value error, ").replace("Input should be", "must be")
    slug = problem.type.replace("_", "-")
    report.error(slug, problem.path, text[:1].lower() + text[1:], key=problem.is_about_key)


_REPORTERS: dict[str, Callable[[_Problem, Any, Report], None]] = {
    **dict.fromkeys((f"{name}_type" for name in _TYPES), _report_type),
    **dict.fromkeys(_BOUNDS, _report_range),
    "missing": _report_missing,
    "too_short": _report_length,
    "too_long": _report_length,
    "multiple_of": _report_multiple,
    "finite_number": _report_infinite,
    "literal_error": _report_choice,
    "union_tag_invalid": _report_kind,
    "union_tag_not_found": _report_kind,
    "string_pattern_mismatch": _report_name,
    "string_too_long": _report_name,
}


def _at(path: SpecPath, data: Any) -> Any:
    for part in path:
        data = data[part]
    return data


def _description(path: SpecPath, data: Any) -> str | None:
    """What the field at `path` is, or the list or mapping that it is an item of."""
    while path:
        name = path[-1]
        for model in _models(path[:-1], data) if isinstance(name, str) else ():
            if name in model.model_fields:
                text = model.model_fields[name].description
                return text and f"`{name}`: {text}"
        path = path[:-1]
    return None


def _models(path: SpecPath, data: Any) -> list[type[BaseModel]]:
    """The models that the value at `path` may be of, narrowed by its kind."""
    return [t for t in _annotations(path, data) if _is_model(t)]


def _annotations(path: SpecPath, data: Any) -> list[Any]:
    """The types that the value at `path` may have, without `None`."""
    candidates: list[Any] = [NetworkSpec]
    for part in path:
        candidates = [t for c in candidates for t in _step(c, part)]
        data = data[part] if _has(data, part) else None
        kind = data.get("kind") if isinstance(data, Mapping) else None
        exact = [t for t in candidates if _is_model(t) and _kind_of(t) == kind is not None]
        candidates = exact or candidates
    return candidates


def _has(data: Any, part: str | int) -> bool:
    if isinstance(data, Mapping):
        return part in data
    return isinstance(data, list | tuple) and isinstance(part, int) and part < len(data)


def _step(annotation: Any, part: str | int) -> Iterator[Any]:
    """The types one step into a type: of a field, of an item, of a value."""
    if _is_model(annotation):
        if part in annotation.model_fields:
            yield from _alternatives(annotation.model_fields[part].annotation)
        return
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is dict:
        yield from _alternatives(arguments[1])
    elif typing.get_origin(annotation) is tuple:
        yield from _alternatives(arguments[0])


def _alternatives(annotation: Any) -> Iterator[Any]:
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        yield from _alternatives(typing.get_args(annotation)[0])
    elif origin in (typing.Union, types.UnionType):
        for argument in typing.get_args(annotation):
            yield from _alternatives(argument)
    elif annotation is not type(None):
        yield annotation


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _kind_of(model: type[BaseModel]) -> Any:
    field = model.model_fields.get("kind")
    return field.default if field else None
