"""Specs from files and text, and back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from graphspec.catalogue import verify_blocks
from graphspec.errors import Report
from graphspec.layers import read_layers
from graphspec.source import decode, plain, provenance, resolve_scalar
from graphspec.spec import NetworkSpec
from graphspec.validate import validate
from graphspec.verify import verify
from graphspec.wiring.explicit import ExplicitEdge


def load(path: str | Path, overrides: Sequence[str] = ()) -> NetworkSpec:
    """The spec in a file, over those it extends and under `overrides` (`stages.layer2.depth=6`).

    Raises:
        SpecError: with everything that is wrong with the spec.
        OSError: the file cannot be read.
    """
    path, report = Path(path), Report()
    text = decode(path.read_bytes(), str(path), report)
    report.raise_errors()
    assert text is not None
    return _load(text, str(path), overrides, report, path)


def loads(text: str, file: str = "<string>", overrides: Sequence[str] = ()) -> NetworkSpec:
    """The spec in a YAML text; `extends` is relative to the current folder.

    Raises:
        SpecError: with everything that is wrong with the spec.
    """
    return _load(text, file, overrides, Report(), None)


def _load(
    text: str, file: str, overrides: Sequence[str], report: Report, path: Path | None
) -> NetworkSpec:
    tree = read_layers(text, file, overrides, report, path)
    if tree is None:
        report.raise_errors()
    assert tree is not None
    places, data = provenance(tree), plain(tree)
    report = Report(places, report.diagnostics)
    spec = validate(data, report, verify_blocks(data, report))
    if spec is not None:
        spec = spec.with_provenance(places)
        verify(spec, report)
    report.raise_errors()
    assert spec is not None
    return spec


def dump(spec: NetworkSpec) -> str:
    """YAML text that loads to an equal spec; it says what was said, not what is default."""
    return yaml.dump(
        as_plain(spec), Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=100
    )


def as_plain(spec: NetworkSpec) -> dict[str, Any]:
    """What `dump` writes, as mappings, lists, strings and numbers."""
    said = _said(spec)
    assert isinstance(said, dict)
    return said


def _said(value: Any) -> Any:
    """The plain form of a model, in its short form where there is one."""
    if isinstance(value, list | tuple):
        return [_said(item) for item in value]
    if isinstance(value, dict):
        return {key: _said(item) for key, item in value.items()}
    if not isinstance(value, BaseModel):
        return value
    if isinstance(value, ExplicitEdge) and value.edge_weights is None:
        return [value.source, value.target]
    said = {
        name: _said(getattr(value, name))
        for name in type(value).model_fields
        if name in value.model_fields_set or (name == "kind" and getattr(value, name) is not None)
    }
    said |= {name: _said(item) for name, item in (value.model_extra or {}).items()}
    return said["kind"] if said.keys() == {"kind"} and said["kind"] is not None else said


class _Dumper(yaml.SafeDumper):
    """Writes what `source.read` reads as the same value."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_string(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    is_text = isinstance(resolve_scalar(text), str)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, None if is_text else '"')


_Dumper.add_representer(str, _represent_string)
