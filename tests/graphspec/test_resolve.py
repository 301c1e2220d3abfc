from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given

from graphspec import (
    CATALOGUE,
    BlockCall,
    NetworkGraph,
    NetworkSpec,
    SpecError,
    build,
    content_hash,
    dump,
    loads,
    resolve,
)
from graphspec.wiring.explicit import Explicit
from tests.graphspec.test_build import BASE, STAGE, spec_of
from tests.strategies import specs

WS: dict[str, Any] = {"kind": "ws", "k": 4, "p": 0.75}


def with_defaults(graph: NetworkGraph) -> NetworkGraph:
    """The graph with all parameters of its blocks, written apart from the compiler's pass."""

    def complete(call: BlockCall, role: str) -> BlockCall:
        params = getattr(CATALOGUE, role)[call.kind].defaults | dict(call.params)
        return replace(call, params=tuple(sorted(params.items())))

    return replace(
        graph,
        stem=complete(graph.stem, "stems"),
        head=complete(graph.head, "heads"),
        stages=tuple(
            replace(
                stage,
                nodes=tuple(
                    replace(node, block=node.block and complete(node.block, "blocks"))
                    for node in stage.nodes
                ),
            )
            for stage in graph.stages
        ),
    )


@given(specs())
def test_the_resolved_form_means_the_same_graph_and_is_its_own(spec: NetworkSpec):
    resolved = resolve(spec)
    assert resolve(resolved) == resolved
    assert build(resolved) == with_defaults(build(spec))
    assert not any(stage.wiring.is_random for stage in resolved.stages)
    assert loads(dump(resolved)) == resolved
    assert loads(dump(spec)) == spec
    assert content_hash(resolved) == content_hash(spec)


def test_draws_become_edges_and_rules_stay():
    wired = {**STAGE, "name": "random", "depth": 8, "wiring": WS}
    fixed, drawn = resolve(spec_of(STAGE, wired)).stages
    assert fixed.wiring.model_dump() == {"kind": "chain"}
    assert fixed.depth == 3
    assert isinstance(drawn.wiring, Explicit)
    assert drawn.depth is None
    edges = build(spec_of(STAGE, wired)).stages[1].edges
    assert len(drawn.wiring.edges) == len(edges)
    assert drawn.wiring.block_nodes(["input"]) == [f"n{i}" for i in range(1, 9)]


def test_defaults_are_written_out():
    spec = spec_of({**STAGE, "nodes": {"n1": "basic", "n2": {"shortcut": False}}})
    resolved = resolve(spec)
    stage = resolved.stages[0]
    assert stage.block is not None
    assert stage.block.params == CATALOGUE.blocks["bottleneck"].defaults | {"expansion": 2}
    assert stage.nodes["n1"].params == CATALOGUE.blocks["basic"].defaults
    assert stage.nodes["n2"].params == {"shortcut": False}
    assert stage.inputs == ("stem",)
    assert resolved.stem.stride == 1
    assert resolved.stem.params == CATALOGUE.stems["conv_bn_relu"].defaults
    assert resolved.head.params == CATALOGUE.heads["pooled_linear"].defaults
    said = dump(resolved)
    assert "limits: {nodes: 10000, edges: 200000}" in said
    assert "aggregate: sum" in said


def test_a_resolved_draw_does_not_depend_on_the_seed():
    resolved = resolve(spec_of({**STAGE, "depth": 12, "wiring": WS}))
    other = resolved.model_copy(update={"seed": 12345})
    assert build(other) == build(resolved)
    assert content_hash(other) == content_hash(resolved)


@pytest.mark.parametrize(
    "change",
    [
        {"width": 16},
        {"depth": 4},
        {"wiring": "complete"},
        {"aggregate": "mean"},
        {"edge_weights": "learned"},
        {"edge_weights": {"kind": "fixed", "value": 2}},
        {"block": {"kind": "bottleneck", "expansion": 4}},
        {"nodes": {"n1": {"width": 4}}},
        {"input_node": "basic"},
        {"output_node": {"aggregate": "mean"}},
        {"name": "other"},
    ],
)
def test_the_hash_names_the_network(change: dict[str, Any]):
    assert content_hash(spec_of({**STAGE, **change})) != content_hash(spec_of(STAGE))


def test_the_hash_does_not_see_how_a_thing_was_said():
    said = {
        **STAGE,
        "block": {"shortcut": True, "expansion": 2, "kind": "bottleneck"},
        "inputs": ["stem"],
        "aggregate": "sum",
        "edge_weights": {"kind": "fixed", "value": 1},
        "nodes": {},
    }
    limits = {"nodes": 100}
    assert content_hash(spec_of(said, limits=limits)) == content_hash(spec_of(STAGE))
    assert content_hash(spec_of(STAGE, seed=8)) == content_hash(spec_of(STAGE))
    dropout = {**BASE["head"], "dropout": 0}
    assert content_hash(spec_of(STAGE, head=dropout)) == content_hash(spec_of(STAGE))
    random = {**STAGE, "depth": 12, "wiring": WS}
    assert content_hash(spec_of(random, seed=8)) != content_hash(spec_of(random))


def test_the_hash_is_equal_in_another_process():
    spec = spec_of({**STAGE, "depth": 12, "wiring": WS})
    program = (
        "import sys; from graphspec import NetworkSpec, content_hash; "
        "print(content_hash(NetworkSpec.model_validate_json(sys.stdin.read())))"
    )
    theirs = subprocess.run(
        [sys.executable, "-c", program],
        input=spec.model_dump_json(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert theirs.stdout.strip() == content_hash(spec)


def test_a_wrong_spec_has_no_resolved_form():
    with pytest.raises(SpecError, match="depth-missing"):
        resolve(spec_of({key: value for key, value in STAGE.items() if key != "depth"}))
