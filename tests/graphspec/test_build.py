from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given

from graphspec import NetworkSpec, Report, SpecError, StageGraph, build, format_graph
from graphspec.weights import Fixed, Learned, Routed
from graphspec.wiring.chain import Chain
from tests.strategies import specs

BASE: dict[str, Any] = {
    "version": 1,
    "name": "net",
    "seed": 7,
    "input_shape": [3, 8, 8],
    "stem": {"kind": "conv_bn_relu", "width": 4},
    "head": {"kind": "pooled_linear", "num_classes": 2},
}
STAGE: dict[str, Any] = {
    "name": "layer1",
    "depth": 3,
    "width": 8,
    "block": {"kind": "bottleneck", "expansion": 2},
    "wiring": "chain",
}


def spec_of(*stages: dict[str, Any], **values: Any) -> NetworkSpec:
    return NetworkSpec.model_validate({**BASE, **values, "stages": list(stages)})


def stage_of(**values: Any) -> StageGraph:
    stage = {key: value for key, value in {**STAGE, **values}.items() if value is not None}
    return build(spec_of(stage)).stages[0]


def edges_by_name(stage: StageGraph) -> list[tuple[str, str]]:
    names = [node.name for node in stage.nodes]
    return [(names[edge.source], names[edge.target]) for edge in stage.edges]


def test_nodes_and_edges_of_a_stage():
    stage = stage_of(wiring="residual")
    assert [node.name for node in stage.nodes] == ["input", "n1", "n2", "n3", "output"]
    assert [node.role for node in stage.nodes] == ["input", *["block"] * 3, "output"]
    assert stage.inputs == ("stem",)
    assert [(edge.source, edge.target) for edge in stage.edges] == [
        (0, 1), (0, 2), (1, 2), (1, 3), (2, 3), (2, 4), (3, 4),
    ]  # fmt: skip


def test_a_plain_input_node_leaves_stride_and_width_to_the_sources():
    stage = stage_of(wiring={"kind": "ba", "m": 2}, depth=5, stride=2)
    assert [(node.name, node.stride, node.width) for node in stage.nodes] == [
        ("input", 1, None),
        ("n1", 2, 8),
        ("n2", 2, 8),
        ("n3", 1, 8),
        ("n4", 1, 8),
        ("n5", 1, 8),
        ("output", 1, None),
    ]


def test_an_input_block_takes_stride_and_width():
    stage = stage_of(wiring="complete", stride=2, input_node={"kind": "conv_bn_relu", "kernel": 1})
    assert stage.nodes[0].block is not None
    assert stage.nodes[0].block.params == (("kernel", 1),)
    assert [node.stride for node in stage.nodes] == [2, 1, 1, 1, 1]
    assert stage.nodes[0].width == 8


def test_end_nodes_and_nodes_say_their_own_stride_and_width():
    stage = stage_of(
        stride=2,
        input_node={"kind": "basic", "stride": 4, "width": 12},
        output_node={"kind": "max_pool", "stride": 2},
        nodes={"n2": {"width": 16, "stride": 3}},
    )
    assert [node.stride for node in stage.nodes] == [4, 1, 3, 1, 2]
    assert [node.width for node in stage.nodes] == [12, 8, 16, 8, 8]


def test_node_parameters_are_laid_over_those_of_the_same_kind():
    stage = stage_of(
        nodes={
            "n1": {"shortcut": False},
            "n2": {"kind": "bottleneck", "expansion": 4},
            "n3": {"kind": "basic"},
        }
    )
    blocks = [node.block for node in stage.nodes[1:4]]
    assert [(block.kind, block.params) for block in blocks if block] == [
        ("bottleneck", (("expansion", 2), ("shortcut", False))),
        ("bottleneck", (("expansion", 4),)),
        ("basic", ()),
    ]
    assert [block.path for block in blocks if block] == [
        ("stages", 0, "nodes", name) for name in ("n1", "n2", "n3")
    ]


def test_identity_is_no_block():
    stage = stage_of(block="identity", nodes={"n2": "basic"})
    assert [node.block is None for node in stage.nodes] == [True, True, False, True, True]
    assert [node.width for node in stage.nodes] == [None, None, 8, None, None]


def test_aggregates():
    stage = stage_of(
        aggregate="mean", output_node={"aggregate": "concat"}, nodes={"n2": {"aggregate": "sum"}}
    )
    assert [node.aggregate for node in stage.nodes[1:]] == ["mean", "sum", "mean", "concat"]


def test_the_most_specific_edge_weights_win():
    stage = stage_of(
        depth=None,
        wiring={
            "kind": "explicit",
            "edges": [
                ["input", "a"],
                {"source": "input", "target": "b", "edge_weights": {"kind": "fixed", "value": 2}},
                ["a", "b"],
                ["input", "output"],
                ["b", "output"],
                {"source": "a", "target": "output", "edge_weights": "fixed"},
            ],
        },
        edge_weights="routed",
        input_node={"edge_weights": "learned"},
        output_node={"edge_weights": {"kind": "fixed", "value": 3}},
    )
    weights = dict(zip(edges_by_name(stage), (edge.weights for edge in stage.edges), strict=True))
    assert weights == {
        ("input", "a"): Learned(),
        ("input", "b"): Fixed(value=2),
        ("a", "b"): Routed(),
        ("input", "output"): Fixed(value=3),
        ("b", "output"): Fixed(value=3),
        ("a", "output"): Fixed(),
    }


def test_explicit_nodes_come_in_topological_order_and_know_their_line():
    stage = stage_of(
        depth=None,
        wiring={
            "kind": "explicit",
            "edges": [["mix", "output"], ["left", "mix"], ["input", "left"], ["input", "mix"]],
        },
    )
    assert [node.name for node in stage.nodes] == ["input", "left", "mix", "output"]
    assert edges_by_name(stage) == [
        ("input", "left"), ("input", "mix"), ("left", "mix"), ("mix", "output"),
    ]  # fmt: skip
    assert [edge.path[-1] for edge in stage.edges] == [2, 3, 1, 0]


def test_several_inputs_are_named_after_the_stages():
    cell = {
        "name": "cell",
        "width": 8,
        "stride": 2,
        "inputs": ["layer1", "stem"],
        "block": "basic",
        "wiring": {
            "kind": "explicit",
            "edges": [["stem", "a"], ["layer1", "b"], ["a", "b"], ["b", "output"]],
        },
        "input_node": {"kind": "conv_bn_relu", "kernel": 1},
        "nodes": {"stem": {"stride": 4}, "layer1": {"kind": "identity"}},
    }
    stage = build(spec_of(STAGE, cell)).stages[1]
    assert stage.inputs == ("layer1", "stem")
    assert [node.name for node in stage.nodes] == ["layer1", "stem", "a", "b", "output"]
    assert stage.nodes[0].block is None
    assert stage.nodes[1].block is not None
    assert stage.nodes[1].block.params == (("kernel", 1),)
    # `a` is fed by a block, `b` by `a` too: neither is a source.
    assert [node.stride for node in stage.nodes] == [1, 4, 1, 1, 1]


def test_stages_follow_one_another_unless_they_say_otherwise():
    second, third = {**STAGE, "name": "layer2"}, {**STAGE, "name": "layer3", "inputs": ["layer2"]}
    graph = build(spec_of(STAGE, second, third))
    assert [stage.inputs for stage in graph.stages] == [("stem",), ("layer1",), ("layer2",)]


def test_stems_have_their_own_stride():
    assert build(spec_of(STAGE)).stem_stride == 1
    assert build(spec_of(STAGE, stem={"kind": "imagenet", "width": 4})).stem_stride == 4
    stem = {"kind": "conv_bn_relu", "width": 4, "stride": 2}
    assert build(spec_of(STAGE, stem=stem)).stem_stride == 2


def test_every_stage_draws_from_its_own_stream():
    wiring = {"kind": "ws", "k": 4, "p": 0.75}
    first, second = ({**STAGE, "name": name, "depth": 16, "wiring": wiring} for name in "ab")
    alone = build(spec_of(second)).stages[0]
    after = build(spec_of(first, second)).stages
    assert after[1].edges == alone.edges
    assert after[0].edges != after[1].edges
    assert build(spec_of(second, seed=8)).stages[0].edges != alone.edges


def test_warnings_reach_the_report():
    spec = NetworkSpec.model_validate(
        {key: value for key, value in BASE.items() if key != "seed"}
        | {"stages": [{**STAGE, "wiring": {"kind": "er", "p": 1}}]}
    )
    report = Report()
    build(spec, report)
    assert [(finding.severity, finding.slug) for finding in report.diagnostics] == [
        ("warning", "seed-defaulted")
    ]


def test_hopeless_draws_are_an_error_of_the_spec():
    with pytest.raises(SpecError) as raised:
        stage_of(depth=30, wiring={"kind": "er", "p": 0.01})
    (finding,) = raised.value.diagnostics
    assert (finding.slug, finding.path) == ("wiring-not-connected", "stages[0].wiring")
    assert "none of 1,000 draws gave a connected graph of 30 nodes with p = 0.01" in finding.message


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ([(0, 1), (2, 1)], "(2, 1); edges go from a lower to a higher of the nodes 0 .. 4"),
        ([(0, 1), (1, 9)], "(1, 9); edges go from"),
        ([(0, 1), (0, 1)], "(0, 1) twice"),
    ],
)
def test_a_rule_that_returns_what_it_may_not_is_named(monkeypatch, edges, message):
    monkeypatch.setattr(Chain, "connect", lambda *_: edges)
    with pytest.raises(SpecError) as raised:
        stage_of(depth=3, wiring="chain")
    (finding,) = raised.value.diagnostics
    assert (finding.slug, finding.path) == ("wiring-broken", "stages[0].wiring")
    assert "the rule 'chain' returned the edge" in finding.message
    assert message in finding.message
    assert finding.help == "this is for whoever wrote graphspec.wiring.chain to mend"


@given(specs())
def test_a_built_stage_is_a_dag_from_its_inputs_to_its_output(spec: NetworkSpec):
    graph = build(spec)
    assert build(spec) == graph
    for stage in graph.stages:
        last, num_inputs = len(stage.nodes) - 1, len(stage.inputs)
        assert list(stage.edges) == sorted(stage.edges, key=lambda edge: (edge.target, edge.source))
        assert all(edge.source < edge.target for edge in stage.edges)
        assert {edge.target for edge in stage.edges} == set(range(num_inputs, last + 1))
        assert {edge.source for edge in stage.edges} == set(range(last))
        roles = [node.role for node in stage.nodes]
        assert roles == ["input"] * num_inputs + ["block"] * (last - num_inputs) + ["output"]


def test_equal_seeds_give_equal_graphs_in_another_process():
    stages = [
        {**STAGE, "name": kind, "depth": 12, "wiring": {"kind": kind, **params}}
        for kind, params in (("er", {"p": 0.4}), ("ba", {"m": 3}), ("ws", {"k": 4, "p": 0.75}))
    ]
    ours = spec_of(*stages)
    program = (
        "import sys; from graphspec import NetworkSpec, build, format_graph; "
        "print(format_graph(build(NetworkSpec.model_validate_json(sys.stdin.read()))), end='')"
    )
    theirs = [
        subprocess.run(
            [sys.executable, "-c", program],
            input=ours.model_dump_json(),
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": hash_seed},
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert theirs == [format_graph(build(ours))] * 2
