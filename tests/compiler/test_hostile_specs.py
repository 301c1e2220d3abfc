"""No string, number or name of a spec becomes code in emitted source."""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import graphspec
from compiler import analyze
from compiler.backends import EmitError
from compiler.backends.source import render
from compiler.lower import lower
from tests.compiler.test_source import TINY, check_structure, emitted

HOSTILE = [
    "x\nimport os",
    'x"; import os; "',
    "x'''\nimport os\n'''",
    '"""\nimport os\n"""',
    "{{ 7 * 7 }}",
    "{% for x in y %}",
    "x): pass\nclass Y(",
    "__import__('os').system('true')",
    "ne\u0301",
    "x\u202e",
    "\u0445",
    "x\x00",
    "x\u2028import os",
    "lambda",
    "__class__",
    "X",
    "1",
    "",
    "a" * 65,
    "router_n1",
]


# Every key of the language that may hold a string does, somewhere.
SPEC: dict[str, Any] = {
    "version": 1,
    "name": "net",
    "input_shape": [3, 16, 16],
    "stem": {"kind": "imagenet", "width": 8, "stride": 4, "init": "fan_in"},
    "stages": [
        {
            "name": "drawn",
            "width": 8,
            "block": {"kind": "conv_bn_relu", "activation": "relu"},
            "wiring": {
                "kind": "explicit",
                "edges": [
                    {"source": "input", "target": "left"},
                    {"source": "input", "target": "right"},
                    {"source": "right", "target": "output"},
                    {
                        "source": "left",
                        "target": "output",
                        "edge_weights": {"kind": "learned", "function": "free"},
                    },
                ],
            },
            "nodes": {"left": {"kind": "basic", "aggregate": "sum"}},
            "inputs": ["stem"],
            "edge_weights": {"kind": "routed", "router": "pooled_linear", "inference": "literal"},
            "input_node": {"kind": "identity"},
        },
        {
            "name": "drawn_at_random",
            "depth": 4,
            "width": 8,
            "block": "dense_layer",
            "wiring": {"kind": "er", "p": 0.5},
            "aggregate": "concat",
            "edge_weights": "fixed",
            "output_node": {"kind": "dense_layer", "aggregate": "concat"},
        },
    ],
    "seed": 3,
    "head": {"kind": "conv_pooled_linear", "num_classes": 2, "width": 8, "dropout": 0.5},
}
NUMBERS = [-1, 0, 1.5, -0.0, 1e-320, 1e400, -1e400, float("nan"), True, None, "1", "1e3", [1], {}]
TEXTS = st.one_of(
    st.sampled_from(HOSTILE),
    st.text(max_size=12),
    st.lists(
        st.sampled_from(
            ["\n", "\r", '"', "'", "\\", "{{", "}}", "{%", "%}", "{#", "#", "(", ")", ":", "=", ",",
             " ", "\t", "\x00", "\u2028", "\u00e9", "\uff3f", "_", "x", "n1", "import os", "exec"]
        ),
        min_size=1,
        max_size=6,
    ).map("".join),
)  # fmt: skip


def places(value, path=(), of=str):
    """The paths of all values of a type in plain data."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*path, key), of)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from places(inner, (*path, index), of)
    elif isinstance(value, of):
        yield path


def put(value, path, new):
    if not path:
        return new
    if isinstance(value, dict):
        return {k: put(v, path[1:], new) if k == path[0] else v for k, v in value.items()}
    return [put(v, path[1:], new) if i == path[0] else v for i, v in enumerate(value)]


def rename(value, path, new):
    """The data with another key at a path."""
    if len(path) == 1:
        return {new if key == path[0] else key: inner for key, inner in value.items()}
    if isinstance(value, dict):
        return {k: rename(v, path[1:], new) if k == path[0] else v for k, v in value.items()}
    return [rename(v, path[1:], new) if i == path[0] else v for i, v in enumerate(value)]


def keys(value, path=()):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*path, key)
            yield from keys(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from keys(inner, (*path, index))


STRINGS = list(places(SPEC))
KEYS = list(keys(SPEC))


def is_accepted(data) -> bool:
    """Whether a spec is right; its source then has the structure that its graph says."""
    try:
        # JSON is YAML, and quotes what is hostile to either.
        spec = graphspec.loads(json.dumps(data))
        graph, _ = analyze(spec)
    except graphspec.SpecError:
        return False
    check_structure(emitted(spec), graph)
    return True


def test_the_spec_holds_every_key_that_takes_a_string():
    schema = graphspec.json_schema()
    known = set(string_keys(schema, schema))
    # Blocks of timm are not emitted; the next test puts hostile strings into `extends`.
    elsewhere = {"attention", "extends"}
    held = {key for path in STRINGS for key in path if isinstance(key, str)}
    assert known - held - elsewhere == set()
    assert is_accepted(SPEC)


def string_keys(value, schema):
    if isinstance(value, list):
        for inner in value:
            yield from string_keys(inner, schema)
    elif isinstance(value, dict):
        for name, described in value.get("properties", {}).items():
            if isinstance(described, dict) and takes_strings(described, schema):
                yield name
        for inner in value.values():
            yield from string_keys(inner, schema)


def takes_strings(described, schema, seen=()) -> bool:
    while "$ref" in described:
        if described["$ref"] in seen:
            return False
        seen = (*seen, described["$ref"])
        described = schema["$defs"][described["$ref"].split("/")[-1]]
    values = [*described.get("enum", ()), described.get("const")]
    inner = [described.get("items", {}), *described.get("anyOf", ()), *described.get("oneOf", ())]
    return (
        "string" in described.get("type", ())
        or any(isinstance(value, str) for value in values)
        or any(takes_strings(item, schema, seen) for item in inner if item)
    )


def test_hostile_strings_are_refused_or_harmless():
    accepted = {text for path in STRINGS for text in HOSTILE if is_accepted(put(SPEC, path, text))}
    assert accepted == {"lambda", "router_n1"}  # as the network's name
    for text in HOSTILE:
        assert not is_accepted(SPEC | {"extends": text})


@pytest.mark.parametrize("path", [path for path in KEYS if path[-1] != "left"], ids=str)
def test_hostile_keys_are_refused(path):
    for text in HOSTILE:
        assert not is_accepted(rename(SPEC, path, text)), text


def test_hostile_names_of_nodes_are_refused():
    """A node is named by edges and by what lies under `nodes`."""
    for text in ["middle", *HOSTILE]:
        renamed = json.loads(json.dumps(SPEC).replace(json.dumps("left"), json.dumps(text)))
        assert is_accepted(renamed) == (text == "middle"), text
        assert not is_accepted(put(SPEC, ("stages", 0, "nodes"), {text: {"kind": "basic"}}))


@settings(max_examples=150)
@given(path=st.sampled_from(STRINGS), text=TEXTS)
def test_any_string_is_refused_or_harmless(path, text):
    is_accepted(put(SPEC, path, text))


@settings(max_examples=100)
@given(path=st.sampled_from(KEYS), text=TEXTS)
def test_any_key_is_refused_or_harmless(path, text):
    is_accepted(rename(SPEC, path, text))


@pytest.mark.parametrize("path", list(places(SPEC, of=(int, float))), ids=str)
def test_odd_numbers_are_refused_or_harmless(path):
    for number in NUMBERS:
        is_accepted(put(SPEC, path, number))


@pytest.mark.parametrize("text", ["network", "load", "lambda", "import_os", "x" * 64, "n1", "self"])
def test_a_name_changes_names_alone(text):
    """What a network is called changes names and strings of the file, and nothing else."""
    named, plain = (emitted(graphspec.loads(json.dumps(SPEC | {"name": n}))) for n in (text, "net"))
    assert shape_of(named) == shape_of(plain)


def shape_of(text: str) -> list[str]:
    """The kinds of all nodes of the syntax tree, in order."""
    return [type(node).__name__ for node in ast.walk(ast.parse(text))]


@pytest.mark.parametrize("text", HOSTILE)
def test_graphs_made_in_python_cannot_smuggle_names(text):
    graph, _ = analyze(graphspec.loads(TINY))
    with torch.device("meta"):
        program = lower(graph)
    stage = graph.stages[1]
    node = replace(stage.nodes[1], name=text)
    renamed = replace(stage, nodes=(stage.nodes[0], node, *stage.nodes[2:]))

    for wrong in (
        replace(graph, name=text),
        replace(graph, stages=(graph.stages[0], renamed, *graph.stages[2:])),
        replace(graph, stages=(replace(graph.stages[0], name=text), *graph.stages[1:])),
    ):
        is_plain = text in ("router_n1", "a" * 65) or (text == "lambda" and wrong.name == text)
        if is_plain:  # only specs refuse it
            continue
        with pytest.raises(EmitError, match="is no name"):
            render(wrong, program, "0" * 64)
