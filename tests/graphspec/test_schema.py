from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given

from graphspec import CATALOGUE, NetworkSpec, dump, json_schema, resolve
from graphspec.wiring import WIRINGS
from tests.strategies import specs

ROOT = Path(__file__).parents[2]

BASE: dict[str, Any] = {
    "version": 1,
    "name": "net",
    "input_shape": [3, 8, 8],
    "stem": {"kind": "conv_bn_relu", "width": 4},
    "stages": [{"name": "a", "depth": 2, "width": 4, "block": "basic", "wiring": "chain"}],
    "head": {"kind": "pooled_linear", "num_classes": 2},
}
LAYER: dict[str, Any] = {"extends": "base.yaml"}


@cache
def validator() -> Any:
    return jsonschema.Draft7Validator(json_schema())


def errors_of(data: Any) -> list[tuple[str, str]]:
    return [(error.json_path, error.message) for error in validator().iter_errors(data)]


def changed(**stage: Any) -> dict[str, Any]:
    return {**BASE, "stages": [{**BASE["stages"][0], **stage}]}


def without(key: str, data: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in data.items() if name != key}


def test_the_schema_is_one_and_every_reference_leads_somewhere():
    schema = json_schema()
    jsonschema.Draft7Validator.check_schema(schema)
    for definition in schema["$defs"].values():
        jsonschema.Draft7Validator.check_schema(definition)
    text = json.dumps(schema)
    for name in schema["$defs"]:
        assert f'"#/$defs/{name}"' in text
    assert text.count('"$ref"') == sum(text.count(f'"#/$defs/{name}"') for name in schema["$defs"])


@pytest.mark.parametrize(
    "path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.stem
)
def test_examples_are_valid(path: Path):
    assert errors_of(yaml.safe_load(path.read_text())) == []


@given(specs())
def test_what_is_dumped_is_valid(spec: NetworkSpec):
    assert errors_of(yaml.safe_load(dump(spec))) == []
    assert errors_of(yaml.safe_load(dump(resolve(spec)))) == []


@pytest.mark.parametrize(
    "data",
    [
        BASE,
        LAYER,
        {**LAYER, "extends": ["a.yaml", "b.yaml"], "stages": {"a": {"depth": 3}}},
        {**LAYER, "stages": {"a": {"block": {"expansion": 2}, "wiring": {"p": 0.3}}}},
        {**LAYER, "stem": {"width": 8}, "head": {"dropout": 0.1}},
        {**without("stages", BASE), "stage_defaults": {"width": 4, "wiring": "chain"}}
        | {"stages": [{"name": "a", "depth": 2, "block": {"kind": "basic"}}]},
        changed(nodes={"n1": "identity", "n2": {"shortcut": False, "stride": 2}}),
        changed(edge_weights={"kind": "routed", "threshold": None}),
        changed(wiring={"kind": "explicit", "edges": [["input", "a"], ["a", "output"]]}),
    ],
)
def test_right_files(data: Any):
    assert errors_of(data) == []


@pytest.mark.parametrize(
    ("data", "path", "text"),
    [
        (without("head", BASE), "$", "'head' is a required property"),
        ({**BASE, "sead": 3}, "$", "'sead' was unexpected"),
        ({**BASE, "version": 2}, "$.version", "1 was expected"),
        ({**BASE, "input_shape": [3, 8]}, "$.input_shape", "too short"),
        ({**BASE, "stages": []}, "$.stages", "should be non-empty"),
        ({**BASE, "stages": {"a": {"depth": 3}}}, "$.stages", "not of type 'array'"),
        ({**BASE, "stem": "regular_bottleneck"}, "$.stem", "is not one of"),
        ({**BASE, "stem": {"kind": "regular_bottleneck"}}, "$.stem", "'group_width' is a required"),
        ({**BASE, "head": {"kind": "pooled_linear"}}, "$.head", "'num_classes' is a required"),
        (changed(depth=0), "$.stages[0].depth", "not valid under any of the given"),
        (changed(widht=3), "$.stages[0]", "'widht' was unexpected"),
        (changed(block="basik"), "$.stages[0].block", "'basik' is not one of"),
        (changed(block={"kind": "basik"}), "$.stages[0].block.kind", "'basik' is not one of"),
        (changed(block={"kind": "basic", "groups": 2}), "$.stages[0].block", "'groups' was unexp"),
        (changed(block={"kind": "basic", "shortcut": 1}), "$.stages[0].block.shortcut", "boolean"),
        (changed(wiring="er"), "$.stages[0].wiring", "'er' is not one of"),
        (changed(wiring={"kind": "er"}), "$.stages[0].wiring", "'p' is a required property"),
        (changed(wiring={"kind": "er", "p": 2}), "$.stages[0].wiring.p", "maximum of 1"),
        (changed(wiring={"kind": "ws", "k": 3, "p": 0}), "$.stages[0].wiring.k", "multiple of 2"),
        (
            changed(wiring={"kind": "explicit", "edges": [["input", "a", "b"]]}),
            "$.stages[0].wiring.edges[0]",
            "too long",
        ),
        (
            changed(edge_weights={"kind": "learned", "bias_init": 3}),
            "$.stages[0].edge_weights",
            "'bias_init' was unexpected",
        ),
        (
            changed(edge_weights={"kind": "routed", "router": "x"}),
            "$.stages[0].edge_weights.router",
            "is not one of",
        ),
        (changed(nodes={"n1": {"kernel": 3, "k": 1}}), "$.stages[0].nodes.n1", "'k' was unexp"),
        (changed(input_node={"aggregate": "max"}), "$.stages[0].input_node.aggregate", ""),
        ({**LAYER, "stages": {"A": {"depth": 3}}}, "$.stages", "does not match"),
    ],
)
def test_wrong_files(data: Any, path: str, text: str):
    errors = errors_of(data)
    assert [error for error in errors if error[0] == path and text in error[1]], errors
    assert {error[0] for error in errors} == {path}


def test_every_kind_and_every_parameter_is_described():
    schema = json_schema()
    roles = {
        "block": CATALOGUE.blocks,
        "stem": CATALOGUE.stems,
        "head": CATALOGUE.heads,
    }
    for role, entries in roles.items():
        kinds = schema["$defs"][role]["properties"]["kind"]
        assert kinds["enum"] == list(entries)
        assert all(kinds["enumDescriptions"])
    assert schema["$defs"]["wiring"]["properties"]["kind"]["enum"] == list(WIRINGS)
    branches = [
        branch["then"]
        for definition in schema["$defs"].values()
        for branch in definition.get("allOf", ())
    ]
    objects = [schema, *schema["$defs"].values(), *branches]
    described = [
        (name, "description" in value or "$ref" in value)
        for properties in (item.get("properties", {}) for item in objects)
        for name, value in properties.items()
        if name != "kind" and value is not True
    ]
    assert len(described) > 200
    assert {name for name, is_described in described if not is_described} == set()
