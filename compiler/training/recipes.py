"""Recipe files: YAML in, a `Recipe` out. The built-in ones lie beside the training engine."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from graphspec import Report, SpecError
from graphspec.layers import merge
from graphspec.source import Tree, decode, plain, read, resolve_scalar
from runtime.training.recipe import Recipe, RecipeError

EXTENDS, DEFAULT_FOR = "extends", "default_for"
_BUILT_IN = files("runtime.training") / "recipes"


class NoSuchRecipeError(LookupError):
    """Neither a built-in recipe nor a file."""


@dataclass(frozen=True)
class _Layer:
    """One recipe file: its entries, and the data sets it is the default for."""

    tree: dict[str, Tree]
    default_for: tuple[str, ...]


def recipe_names() -> list[str]:
    """The built-in recipes."""
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in _BUILT_IN.iterdir()
        if entry.name.endswith(".yaml")
    )


def default_recipe(data: str) -> str | None:
    """The built-in recipe made for a data set, if there is one."""
    for name in recipe_names():
        layer = _read(_BUILT_IN.joinpath(f"{name}.yaml").read_bytes(), f"{name}.yaml")
        if data in layer.default_for:
            return name
    return None


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a file, or the built-in one of that name, with `key=value` laid over it.

    A file may begin from another: `extends: cifar`.

    Raises:
        NoSuchRecipeError: there is neither.
        RecipeError: an override is wrong.
        SpecError: the file is wrong; with the place.
    """
    entries = _entries(name, ())
    values = {key: plain(tree) for key, tree in entries.items()}
    _checked(values, entries)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise RecipeError(override, "an override reads key=value, such as lr=0.05")
        _override(values, key.strip(), _override_value(key, text))
    return Recipe.from_mapping(values)


def dump_recipe(recipe: Recipe) -> str:
    """YAML text that `load_recipe` reads as an equal recipe."""
    return yaml.safe_dump(recipe.as_mapping(), sort_keys=False, default_flow_style=None)


def _override(values: dict[str, Any], key: str, value: Any) -> None:
    """Sets an entry, or one of a section: `detection.min_size`."""
    section, dot, name = key.partition(".")
    if not dot:
        values[key] = value
    elif isinstance(values.get(section), dict):
        values[section] = values[section] | {name: value}
    else:
        raise RecipeError(key, f"the recipe has no section {section!r}")


def _override_value(key: str, text: str) -> Any:
    report = Report()
    tree = read(text, f"--recipe-set {key}", report)
    if tree is None or report.errors:
        return resolve_scalar(text)
    return plain(tree)


def _entries(name: str, seen: tuple[str, ...]) -> dict[str, Tree]:
    """The entries of a recipe over those it extends."""
    path = Path(name)
    if name in recipe_names():
        content, file = _BUILT_IN.joinpath(f"{name}.yaml").read_bytes(), f"{name}.yaml"
    elif path.is_file():
        content, file = path.read_bytes(), name
    else:
        close = difflib.get_close_matches(name, recipe_names(), n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise NoSuchRecipeError(
            f"no recipe {name!r}{hint} (a file, or one of {', '.join(recipe_names())})"
        )
    entries = _read(content, file).tree
    if EXTENDS not in entries:
        return entries
    extends = entries.pop(EXTENDS)
    parent = str(plain(extends))
    if parent not in recipe_names():
        parent = str(path.parent / parent)
    if parent in (*seen, name):
        raise _located(extends, EXTENDS, " -> ".join((*seen, name, parent)) + " is a circle")
    try:
        below = _entries(parent, (*seen, name))
    except NoSuchRecipeError as error:
        raise _located(extends, EXTENDS, str(error)) from None
    laid_over = {key: merge(below[key], tree) for key, tree in entries.items() if key in below}
    return below | entries | laid_over


def _read(content: bytes, file: str) -> _Layer:
    report = Report()
    text = decode(content, file, report)
    tree = None if text is None else read(text, file, report)
    report.raise_errors()
    assert tree is not None
    if tree.mapping is None:
        raise _located(tree, "", "a recipe is a mapping of names to values")
    entries = dict(tree.mapping)
    default_for = plain(entries.pop(DEFAULT_FOR)) if DEFAULT_FOR in entries else ()
    return _Layer(entries, tuple(default_for))


def _checked(values: dict[str, Any], entries: dict[str, Tree]) -> Recipe:
    """The recipe, or a SpecError at the entry that is wrong."""
    try:
        return Recipe.from_mapping(values)
    except RecipeError as error:
        tree = _find(entries, error.key) or next(iter(entries.values()), None)
        raise _located(tree, error.key, error.message) from None


def _find(entries: dict[str, Tree], key: str) -> Tree | None:
    section, _, name = key.partition(".")
    tree = entries.get(section)
    return tree and ((tree.mapping or {}).get(name) or tree)


def _located(tree: Tree | None, key: str, message: str) -> SpecError:
    report = Report()
    path = tuple(key.split(".")) if key else ()
    report.add("error", "recipe", path, message, None, tree and tree.span)
    return SpecError(report.diagnostics)
