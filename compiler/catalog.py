"""Finds the runtime's blocks, stems, heads and routers by name, and builds them.

The only reader of their signatures: keyword-only constructor arguments are YAML parameters.
`python -m compiler.catalog` writes what it finds to `graphspec/catalogue.json`, so that specs
are checked without torch. Other packages add theirs through the entry-point groups
`graphc.blocks`, `graphc.stems`, `graphc.heads` and `graphc.routers`: the entry point's name is
the kind, its value the class. `python -m compiler.catalog --package NAME` writes the
`catalogue.json` of such a package, which must be installed.

Blocks of timm and torchvision are functions in `compiler/interop`, and need their library when
they are built.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import os
import pkgutil
import types
import typing
from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, cast

from torch import nn

import graphspec
from compiler.construction import construct
from compiler.interop import timm_blocks, torchvision_blocks
from graphspec import Report
from graphspec.catalogue import FILE_NAME
from graphspec.graph import BlockCall
from graphspec.registry import plugins
from runtime.parameter import Param

Role = Literal["blocks", "stems", "heads", "routers"]
ROLES: tuple[Role, ...] = typing.get_args(Role)
FOREIGN = {
    kind: (module.LIBRARY, build)
    for module in (timm_blocks, torchvision_blocks)
    for kind, build in module.BLOCKS.items()
}
"""Blocks of other libraries by kind: the library, and the function that builds one."""
CATALOGUE_FILE = Path(graphspec.__file__).with_name(FILE_NAME)

JSON_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}
JSON_BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
IDENTITY = {
    "doc": "Hands on what it receives; no layer is made.",
    "params": {},
    "required": [],
    "keeps_channels": True,
    "divides": {},
    "strides": [1],
    "rounding": "ceil",
}


@cache
def classes(role: Role) -> Mapping[str, type[nn.Module]]:
    """The classes of one role by kind, sorted; the runtime's own and those of entry points.

    Raises: ValueError, naming both modules, if two have one kind.
    """
    constant = role.removesuffix("s").upper()
    package = importlib.import_module(f"runtime.{role}")
    found: dict[str, type[nn.Module]] = {}
    for module in pkgutil.iter_modules(package.__path__):
        found[module.name] = getattr(
            importlib.import_module(f"runtime.{role}.{module.name}"), constant
        )
    for name, cls in plugins(f"graphc.{role}"):
        if other := found.get(name):
            raise ValueError(
                f"two {role} are named {name!r}: {other.__module__} and {cls.__module__}; "
                "rename one"
            )
        found[name] = cls
    return dict(sorted(found.items()))


def constructors(role: Role) -> Mapping[str, Callable[..., nn.Module]]:
    """All that makes modules of one role, by kind: `classes`, and blocks of other libraries.

    Raises: ValueError if a class has the name of another library's block.
    """
    found: dict[str, Callable[..., nn.Module]] = {**classes(role)}
    for kind, (_, build) in FOREIGN.items() if role == "blocks" else ():
        if kind in found:
            raise ValueError(f"two {role} are named {kind!r}; rename that of {found[kind]}")
        found[kind] = build
    return dict(sorted(found.items()))


def make_block(call: BlockCall, in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """The module of a node; `call` was checked against the catalogue.

    Raises:
        SpecError: when the library of the block is not installed.
    """
    if call.kind in FOREIGN:
        library, build = FOREIGN[call.kind]
        _require(library, call)
        return build(in_channels, out_channels, stride, **_arguments(call))
    cls = classes("blocks")[call.kind]
    return construct(cls, in_channels, out_channels, stride, **_arguments(call))


def make_stem(call: BlockCall, in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """The module of a network's stem, which may be of a stem's or a block's kind."""
    if call.kind not in classes("stems"):
        return make_block(call, in_channels, out_channels, stride)
    cls = classes("stems")[call.kind]
    return construct(cls, in_channels, out_channels, stride, **_arguments(call))


def make_head(call: BlockCall, in_channels: int, num_classes: int) -> nn.Module:
    """The module from the last stage's features to logits."""
    return construct(classes("heads")[call.kind], in_channels, num_classes, **_arguments(call))


def make_router(kind: str, in_channels: int, num_targets: int, *, bias_init: float) -> nn.Module:
    """The module that predicts the weights of one node's output edges."""
    return construct(classes("routers")[kind], in_channels, num_targets, bias_init=bias_init)


def _require(library: str, call: BlockCall) -> None:
    if find_spec(library) is None:
        report = Report()
        report.error(
            "library-missing",
            call.path,
            f"the block {call.kind!r} is one of {library}, which is not installed",
            f"pip install 'graphc-nn[{library}]'" if library == "timm" else f"install {library}",
        )
        report.raise_errors()


def _arguments(call: BlockCall) -> dict[str, Any]:
    return {name: tuple(v) if isinstance(v, list) else v for name, v in call.params}


def describe() -> dict[str, Any]:
    """All kinds with their parameters, as `graphspec/catalogue.json` holds them.

    Raises: ValueError if a block and a stem have one kind: a stem may be either.
    """
    catalogue = {
        role: {kind: _describe_class(kind, build) for kind, build in constructors(role).items()}
        for role in ROLES
    }
    catalogue["blocks"] = dict(sorted((catalogue["blocks"] | {"identity": IDENTITY}).items()))
    for kind in sorted(catalogue["blocks"].keys() & catalogue["stems"].keys()):
        raise ValueError(f"a block and a stem are named {kind!r}; rename one")
    catalogue["stems"] = dict(sorted((catalogue["blocks"] | catalogue["stems"]).items()))
    return catalogue


def _describe_class(kind: str, cls: Callable[..., nn.Module]) -> dict[str, Any]:
    parameters = [
        parameter
        for parameter in inspect.signature(cls, eval_str=True).parameters.values()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    strides = getattr(cls, "strides", None)
    library = {"library": FOREIGN[kind][0]} if kind in FOREIGN else {}
    return library | {
        "doc": (inspect.getdoc(cls) or "").split("\n\n")[0].replace("\n", " "),
        "params": {
            parameter.name: _describe_parameter(kind, parameter) for parameter in parameters
        },
        "required": [p.name for p in parameters if p.default is p.empty],
        "keeps_channels": getattr(cls, "keeps_channels", False),
        "divides": {name: list(counts) for name, counts in getattr(cls, "divides", {}).items()},
        "strides": None if strides is None else list(strides),
        "rounding": getattr(cls, "rounding", "ceil"),
    }


def _describe_parameter(kind: str, parameter: inspect.Parameter) -> dict[str, Any]:
    annotation = parameter.annotation
    metadata = getattr(annotation, "__metadata__", ())
    documentation = next((item for item in metadata if isinstance(item, Param)), None)
    if documentation is None:
        raise TypeError(
            f"{kind}.{parameter.name} must be annotated as Annotated[type, Param('what it is')]"
        )
    bounds = {
        json_name: bound
        for name, json_name in JSON_BOUNDS.items()
        if (bound := getattr(documentation, name)) is not None
    }
    schema = _describe_type(f"{kind}.{parameter.name}", annotation.__origin__, bounds)
    if parameter.default is not parameter.empty:
        default = parameter.default
        schema["default"] = list(default) if isinstance(default, tuple) else default
    return schema | {"description": documentation.description}


def _describe_type(where: str, annotation: Any, bounds: dict[str, float]) -> dict[str, Any]:
    """JSON Schema of a parameter's type; bounds are those of its numbers."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in JSON_TYPES:
        return {"type": JSON_TYPES[annotation], **bounds}
    if origin is Literal:
        return {"type": JSON_TYPES[type(arguments[0])], "enum": list(arguments)}
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return {"type": "array", "items": _describe_type(where, arguments[0], bounds)}
    if origin in (typing.Union, types.UnionType) and len(arguments) == 2:
        optional = next((a for a in arguments if a is not type(None)), None)
        if type(None) in arguments and optional in JSON_TYPES:
            return {"type": [JSON_TYPES[optional], "null"], **bounds}
    raise TypeError(
        f"{where}: YAML parameters are bool, int, float, str, Literal, tuple[T, ...] or T | None, "
        f"not {annotation}"
    )


def _package(role: str, kind: str) -> str:
    """The package that brings a kind; "runtime" for all of ours."""
    roles: tuple[Role, ...] = ("stems", "blocks") if role == "stems" else (cast("Role", role),)
    found = (classes(role)[kind] for role in roles if kind in classes(role))
    cls = next(found, None)  # None: identity, and other libraries' blocks
    return "runtime" if cls is None else cls.__module__.partition(".")[0]


def render(package: str = "runtime") -> str:
    """The text of the catalogue of one package: `graphspec/catalogue.json`, or a plug-in's."""
    described = {
        role: {kind: entry for kind, entry in entries.items() if _package(role, kind) == package}
        for role, entries in describe().items()
    }
    return json.dumps(described, indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    """Writes a catalogue, whole or not at all."""
    parser = argparse.ArgumentParser(prog="python -m compiler.catalog", description=__doc__)
    parser.add_argument("--package", help="an installed package; without it, graphc's own")
    package = parser.parse_args().package
    path, text = CATALOGUE_FILE, render()
    if package is not None:
        path, text = files(package).joinpath(FILE_NAME), render(package)
    assert isinstance(path, Path), "packages in archives cannot be written to"
    temporary = path.with_suffix(".json.partial")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


if __name__ == "__main__":
    main()
