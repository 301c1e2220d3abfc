"""The JSON Schema of spec files: an editor completes and checks with it while one types.

A file may be a layer over others, so most keys may be missing, and a mapping without `kind`
may hold parameters of any kind. What is required is said where no other layer can supply it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from graphspec.catalogue import CATALOGUE, Entry
from graphspec.spec import (
    BlockSpec,
    EndNodeSpec,
    HeadSpec,
    Limits,
    NetworkSpec,
    NodeSpec,
    StageSpec,
    StemSpec,
)
from graphspec.weights import Fixed, Learned, Routed
from graphspec.wiring import WIRINGS
from graphspec.wiring.explicit import Explicit, ExplicitEdge

Schema = dict[str, Any]

_DRAFT = "http://json-schema.org/draft-07/schema#"
"""The newest that editors support well."""

_STAGE_KINDS = {
    "block": "block",
    "input_node": "end_node",
    "output_node": "end_node",
    "wiring": "wiring",
    "edge_weights": "edge_weights",
}
"""Keys of a stage that hold a kind, and the definitions of what they may be."""


@dataclass(frozen=True)
class _Kind:
    """One kind of something: what it is, its parameters, those without a default."""

    doc: str
    params: Mapping[str, Schema]
    required: Sequence[str]

    @classmethod
    def of_entry(cls, entry: Entry) -> _Kind:
        return cls(entry.doc, {name: dict(v) for name, v in entry.params.items()}, entry.required)

    @classmethod
    def of_model(cls, model: type[BaseModel]) -> _Kind:
        params = _properties(model)
        params.pop("kind")
        if model is Explicit:
            params["edges"]["items"] = _edge()
        if model is Routed:
            params["router"]["enum"] = list(CATALOGUE.routers)
        fields = model.model_fields.items()
        return cls(_doc(model), params, [name for name, field in fields if field.is_required()])


def json_schema() -> Schema:
    """The schema of the file form: layers, overrides of stages by name, short forms of kinds."""
    network = _properties(NetworkSpec)
    network["input_shape"] = _description(NetworkSpec, "input_shape") | {
        "type": "array",
        "items": {"type": "integer", "minimum": 1, "maximum": 1_000_000},
        "minItems": 3,
        "maxItems": 3,
    }
    network |= {
        "stem": _ref("stem"),
        "head": _ref("head"),
        "limits": _object(_doc(Limits), _properties(Limits)),
        "stages": {
            "description": "in order; a file that extends another may list changes by stage name",
            "type": ["array", "object"],
            "items": _ref("stage"),
            "minItems": 1,
            "propertyNames": {"pattern": network["name"]["pattern"]},
            "additionalProperties": _ref("stage_values"),
        },
        "extends": {
            "description": "spec files that this one changes, relative to this one",
            "type": ["string", "array"],
            "items": {"type": "string"},
        },
        "stage_defaults": {
            **_ref("stage_values"),
            "description": "laid under every stage: what a stage itself says wins",
        },
    }
    return {
        "$schema": _DRAFT,
        "title": "graphc network spec",
        "description": _doc(NetworkSpec),
        "type": "object",
        "properties": network,
        "additionalProperties": False,
        "allOf": _requirements(),
        "$defs": _definitions(),
    }


def _requirements() -> list[Schema]:
    """What a file must say that extends no other, and says nothing of all stages."""
    alone = {"not": {"required": ["extends"]}}
    whole_stage = {
        "required": ["name", "width", "wiring"],
        "properties": {"wiring": _ref("whole_wiring"), "block": _ref("whole_block")},
    }
    no_defaults = {"not": {"anyOf": [{"required": ["extends"]}, {"required": ["stage_defaults"]}]}}
    return [
        {
            "if": alone,
            "then": {
                "required": ["version", "name", "input_shape", "stem", "stages", "head"],
                "properties": {
                    "stages": {"type": "array"},
                    "stem": _ref("whole_stem"),
                    "head": _ref("whole_head"),
                },
            },
        },
        {
            "if": no_defaults,
            "then": {"properties": {"stages": {"items": whole_stage}}},
        },
    ]


def _definitions() -> dict[str, Schema]:
    stage = _properties(StageSpec)
    for key, definition in _STAGE_KINDS.items():
        stage[key] = _ref(definition) | _description(StageSpec, key)
    stage["nodes"] = _description(StageSpec, "nodes") | {
        "type": "object",
        "propertyNames": {"pattern": stage["name"]["pattern"]},
        "additionalProperties": _ref("node"),
    }
    blocks, stems, heads = (
        {kind: _Kind.of_entry(entry) for kind, entry in entries.items()}
        for entries in (CATALOGUE.blocks, CATALOGUE.stems, CATALOGUE.heads)
    )
    wirings = {kind: _Kind.of_model(WIRINGS[kind]) for kind in WIRINGS}
    weights = {
        str(model.model_fields["kind"].default): _Kind.of_model(model)
        for model in (Fixed, Learned, Routed)
    }
    end_node = _properties(EndNodeSpec)
    end_node["edge_weights"] = _ref("edge_weights") | _description(EndNodeSpec, "edge_weights")
    values = {key: schema for key, schema in stage.items() if key != "name"}
    return {
        "stage": _object(_doc(StageSpec), stage) | {"required": ["name"]},
        "stage_values": _object(_doc(StageSpec), values),
        "block": _one_of(_doc(BlockSpec), blocks, {}),
        "node": _one_of(_doc(NodeSpec), blocks, _properties(NodeSpec)),
        "end_node": _one_of(_doc(EndNodeSpec), blocks, end_node),
        "stem": _one_of(_doc(StemSpec), stems, _properties(StemSpec)),
        "head": _one_of(_doc(HeadSpec), heads, _properties(HeadSpec)),
        "wiring": _one_of("the rule that connects the nodes", wirings, {}),
        "edge_weights": _one_of("what the edges weigh", weights, {}),
        "whole_block": _whole(blocks, ()),
        "whole_stem": _whole(stems, ()),
        "whole_head": _whole(heads, ("num_classes",)),
        "whole_wiring": _whole(wirings, ()),
    }


def _one_of(doc: str, kinds: Mapping[str, _Kind], common: Mapping[str, Schema]) -> Schema:
    """A kind alone, or a mapping with it and its parameters, or with parameters of any kind."""
    names = {"enum": list(kinds), "enumDescriptions": [kind.doc for kind in kinds.values()]}
    common = {key: schema for key, schema in common.items() if key != "kind"}
    every = dict[str, Schema]()
    for kind in kinds.values():
        every |= {name: schema for name, schema in kind.params.items() if name not in common}
    no_kind = {"type": "object", "not": {"required": ["kind"]}}
    any_values = dict.fromkeys(every, True) | common
    return {
        "description": doc,
        "type": ["string", "object"],
        "properties": {"kind": names},
        "allOf": [
            {"if": {"type": "string"}, "then": names},
            {"if": no_kind, "then": {"properties": any_values, "additionalProperties": False}},
            *(
                {
                    "if": _is_kind(name),
                    "then": _object(kind.doc, {"kind": {"const": name}, **kind.params, **common}),
                }
                for name, kind in kinds.items()
            ),
        ],
    }


def _whole(kinds: Mapping[str, _Kind], required: Sequence[str]) -> Schema:
    """What must be said where no other layer says it; `required` goes for every kind."""
    alone = [name for name, kind in kinds.items() if not (kind.required or required)]
    mapping: Schema = {"required": ["kind", *required]}
    demands = [
        {"if": _is_kind(name), "then": {"required": list(kind.required)}}
        for name, kind in kinds.items()
        if kind.required
    ]
    if demands:
        mapping["allOf"] = demands
    return {"if": {"type": "string"}, "then": {"enum": alone}, "else": mapping}


def _is_kind(name: str) -> Schema:
    return {"type": "object", "properties": {"kind": {"const": name}}, "required": ["kind"]}


def _edge() -> Schema:
    ends = _properties(ExplicitEdge)
    ends["edge_weights"] = _ref("edge_weights") | _description(ExplicitEdge, "edge_weights")
    return {
        "description": _doc(ExplicitEdge),
        "type": ["array", "object"],
        "items": ends["source"],
        "minItems": 2,
        "maxItems": 2,
        "properties": ends,
        "required": ["source", "target"],
        "additionalProperties": False,
    }


def _object(doc: str, properties: Mapping[str, Schema]) -> Schema:
    return {
        "description": doc,
        "type": "object",
        "properties": dict(properties),
        "additionalProperties": False,
    }


def _ref(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


def _doc(model: type[BaseModel]) -> str:
    """The first line of a model's documentation."""
    return (model.__doc__ or "").strip().split("\n")[0]


def _description(model: type[BaseModel], key: str) -> Schema:
    description = model.model_fields[key].description
    return {"description": description} if description else {}


def _properties(model: type[BaseModel]) -> dict[str, Schema]:
    """The fields of a model as pydantic describes them, without its titles."""
    return {
        name: {key: value for key, value in schema.items() if key != "title"}
        for name, schema in model.model_json_schema()["properties"].items()
    }
