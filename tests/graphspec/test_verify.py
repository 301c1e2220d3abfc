"""Cross-field rules: each row is a change of a right spec, and what must be found, no more."""

from __future__ import annotations

import re
from typing import Any

import pytest

from graphspec import NetworkSpec, Report, SpecError, build
from graphspec.names import reserved_for
from tests.graphspec.test_build import BASE, STAGE, spec_of

WARNING = "warning "


def findings_of(*stages: dict[str, Any], **values: Any) -> list[str]:
    report = Report()
    try:
        build(spec_of(*stages, **values), report)
    except SpecError:
        assert report.errors
    for finding in report.diagnostics:
        assert finding.help, f"{finding.slug} does not say what to do"
    return [
        f"{WARNING if finding.severity == 'warning' else ''}{finding.slug} {finding.path}"
        for finding in report.diagnostics
    ]


def stage(**values: Any) -> dict[str, Any]:
    """The right stage with changes; None takes a key away."""
    return {key: value for key, value in {**STAGE, **values}.items() if value is not None}


def explicit(*edges: Any, **values: Any) -> dict[str, Any]:
    """A stage with edges `a>b`, or as mappings."""
    listed = [edge.split(">") if isinstance(edge, str) else edge for edge in edges]
    return stage(depth=None, wiring={"kind": "explicit", "edges": listed}, **values)


def weighed(edge: str, weights: Any) -> dict[str, Any]:
    source, target = edge.split(">")
    return {"source": source, "target": target, "edge_weights": weights}


ER, WS = {"kind": "er", "p": 0.9}, {"kind": "ws", "k": 2, "p": 0.5}
OTHER_ROUTED = {"kind": "routed", "bias_init": 0.0}

ROWS: dict[str, tuple[list[dict[str, Any]], list[str]]] = {
    "right": ([stage(), explicit("input>a", "a>output", name="b")], []),
    # Names
    "two stages of one name": ([stage(), stage()], ["stage-duplicate stages[1].name"]),
    "stage called as a torch method": (
        [stage(name="train")],
        ["name-reserved stages[0].name"],
    ),
    "stage called as a keyword": ([stage(name="lambda")], ["name-reserved stages[0].name"]),
    "node called as a builtin": (
        [explicit("input>sum", "sum>output")],
        ["name-reserved stages[0].wiring.edges[0]"],
    ),
    "node called as the compiler's own": (
        [explicit("input>router_n1", "router_n1>output")],
        ["name-reserved stages[0].wiring.edges[0]"],
    ),
    # Depth
    "no depth": ([stage(depth=None)], ["depth-missing stages[0]"]),
    "another depth than the edges": (
        [explicit("input>a", "a>output") | {"depth": 2}],
        ["depth-conflict stages[0].depth"],
    ),
    "the same depth as the edges": ([explicit("input>a", "a>output") | {"depth": 1}], []),
    "k too large": (
        [stage(wiring={"kind": "ws", "k": 4, "p": 0.5})],
        ["wiring-misfit stages[0].wiring.k"],
    ),
    "m too large": ([stage(wiring={"kind": "ba", "m": 3})], ["wiring-misfit stages[0].wiring.m"]),
    "too deep": (
        [stage(depth=9_999), stage(name="b", depth=10)],
        ["too-many-nodes stages[0].depth"],
    ),
    "too many edges": (
        [stage(depth=700, wiring="complete")],
        ["too-many-edges stages[0].depth"],
    ),
    "absurdly deep": (
        [stage(depth=10**15, wiring="complete")],
        ["too-many-nodes stages[0].depth", "too-many-edges stages[0].depth"],
    ),
    # Inputs
    "unknown input": (
        [stage(inputs=["stern"])],
        ["input-unknown stages[0].inputs[0]"],
    ),
    "input from a later stage": (
        [stage(inputs=["b"]), stage(name="b")],
        ["input-not-earlier stages[0].inputs[0]"],
    ),
    "input from itself": ([stage(inputs=["layer1"])], ["input-not-earlier stages[0].inputs[0]"]),
    "input twice": (
        [stage(), explicit("layer1>output", inputs=["layer1", "layer1"], name="b")],
        ["input-duplicate stages[1].inputs[1]"],
    ),
    "several inputs of a rule": (
        [stage(), stage(name="b", inputs=["stem", "layer1"])],
        ["inputs-need-explicit stages[1].wiring"],
    ),
    "unused input": (
        [stage(), explicit("layer1>a", "a>output", inputs=["stem", "layer1"], name="b")],
        ["input-unused stages[1].inputs[0]"],
    ),
    "input node by its old name": (
        [
            stage(),
            explicit("input>a", "layer1>a", "stem>a", "a>output", inputs=["stem", "layer1"])
            | {"name": "b"},
        ],
        ["name-reserved stages[1].wiring.edges[0]"],
    ),
    "stage that feeds nothing": (
        [stage(), stage(name="b"), stage(name="c", inputs=["layer1"])],
        ["stage-unused stages[1]"],
    ),
    # Edges
    "self loop": (
        [explicit("input>a", "a>a", "a>output")],
        ["edge-self-loop stages[0].wiring.edges[1]"],
    ),
    "edge twice": (
        [explicit("input>a", "a>output", "input>a")],
        ["edge-duplicate stages[0].wiring.edges[2]"],
    ),
    "edge into the input": (
        [explicit("input>a", "a>input", "a>output")],
        ["edge-into-input stages[0].wiring.edges[1]"],
    ),
    "edge from the output": (
        [explicit("input>a", "a>output", "output>a")],
        ["edge-from-output stages[0].wiring.edges[2]"],
    ),
    "cycle": (
        [explicit("input>a", "a>b", "b>c", "c>a", "c>output")],
        ["cycle stages[0].wiring.edges[3]"],
    ),
    "node without input": (
        [explicit("input>a", "imput>b", "a>b", "b>output")],
        ["node-without-input stages[0].wiring.edges[1]"],
    ),
    "output without input": (
        [explicit("input>a", "a>b")],
        ["output-without-input stages[0].wiring.edges"],
    ),
    # Nodes and blocks
    "unknown node": (
        [stage(nodes={"n4": {"stride": 2}})],
        ["node-unknown stages[0].nodes.n4"],
    ),
    "unknown named node": (
        [explicit("input>left", "left>output", nodes={"lift": {"stride": 2}})],
        ["node-unknown stages[0].nodes.lift"],
    ),
    "end nodes among the nodes": (
        [stage(nodes={"input": {"stride": 2}, "output": {"stride": 2}})],
        ["node-unknown stages[0].nodes.input", "node-unknown stages[0].nodes.output"],
    ),
    "no block": ([stage(block=None)], ["block-missing stages[0]"]),
    "no block for one node": (
        [stage(block=None, nodes={"n1": {"kind": "basic"}, "n2": {"kind": "basic"}})],
        ["block-missing stages[0]"],
    ),
    "block that no node uses": (
        [stage(nodes={name: {"kind": "basic"} for name in ("n1", "n2", "n3")})],
        [f"{WARNING}block-unused stages[0].block"],
    ),
    "parameters of an input node without block": (
        [stage(input_node={"kernel": 1})],
        ["parameter-without-block stages[0].input_node.kernel"],
    ),
    "width of an output node without block": (
        [stage(output_node={"width": 8})],
        ["width-without-block stages[0].output_node.width"],
    ),
    "parameters of an identity block": (
        [stage(block={"kind": "identity", "kernel": 3})],
        ["parameter-without-block stages[0].block.kernel"],
    ),
    "parameters and width of an identity node": (
        [stage(nodes={"n1": {"kind": "identity", "kernel": 3, "width": 4}})],
        [
            "parameter-without-block stages[0].nodes.n1.kernel",
            "width-without-block stages[0].nodes.n1.width",
        ],
    ),
    "aggregate of an input node": (
        [stage(input_node={"aggregate": "sum"})],
        ["aggregate-without-sources stages[0].input_node.aggregate"],
    ),
    "unknown block": ([stage(block="basik")], ["unknown-kind stages[0].block.kind"]),
    "unknown parameter": (
        [stage(nodes={"n1": {"expansoin": 4}})],
        ["unknown-parameter stages[0].nodes.n1.expansoin"],
    ),
    # Edge weights
    "weighted concat": (
        [stage(aggregate="concat", edge_weights="learned")],
        ["concat-weighted stages[0].aggregate"],
    ),
    "concat in the output node of a routed stage": (
        [stage(output_node={"aggregate": "concat"}, edge_weights="routed")],
        ["concat-weighted stages[0].output_node.aggregate"],
    ),
    "concat in a node of a weighted stage": (
        [stage(nodes={"n2": {"aggregate": "concat"}}, edge_weights={"kind": "fixed", "value": 2})],
        ["concat-weighted stages[0].nodes.n2.aggregate"],
    ),
    "concat in an output node with fixed weights": (
        [
            stage(
                output_node={"aggregate": "concat", "edge_weights": "fixed"}, edge_weights="routed"
            )
        ],
        [],
    ),
    "two settings of routed edges": (
        [stage(edge_weights="routed", output_node={"edge_weights": OTHER_ROUTED})],
        ["routed-conflict stages[0].output_node.edge_weights"],
    ),
    "an edge routed otherwise": (
        [explicit("input>a", weighed("a>output", OTHER_ROUTED), edge_weights="routed")],
        ["routed-conflict stages[0].wiring.edges[1].edge_weights"],
    ),
    "two functions of learned edges": (
        [
            stage(
                edge_weights="learned",
                input_node={"edge_weights": {"kind": "learned", "function": "free"}},
            )
        ],
        ["learned-conflict stages[0].edge_weights"],
    ),
    "learned edges that start apart": (
        [
            stage(
                edge_weights="learned",
                input_node={"edge_weights": {"kind": "learned", "init": 1.0}},
            )
        ],
        [],
    ),
    "weights that no edge takes": (
        [
            explicit(
                weighed("input>a", "fixed"), weighed("a>output", "fixed"), edge_weights="routed"
            )
        ],
        [f"{WARNING}edge-weights-unused stages[0].edge_weights"],
    ),
    "weights of an input node under those of its edges": (
        [explicit(weighed("input>a", "fixed"), "a>output", input_node={"edge_weights": "routed"})],
        [f"{WARNING}edge-weights-unused stages[0].input_node.edge_weights"],
    ),
    "gating without a threshold": (
        [stage(edge_weights={"kind": "routed", "threshold": None, "learnable_threshold": False})],
        [f"{WARNING}gating-unused stages[0].edge_weights.learnable_threshold"],
    ),
    "no gating": ([stage(edge_weights={"kind": "routed", "threshold": None})], []),
    # Strides
    "stride that no source takes": (
        [stage(stride=2, nodes={"n1": {"stride": 1}})],
        [f"{WARNING}stride-unused stages[0].stride"],
    ),
    "stride that an input block does not take": (
        [stage(stride=2, input_node={"kind": "basic", "stride": 1})],
        [f"{WARNING}stride-unused stages[0].stride"],
    ),
    "stride that one of two sources takes": (
        [
            explicit(
                "input>a", "input>b", "a>output", "b>output", stride=2, nodes={"a": {"stride": 4}}
            )
        ],
        [],
    ),
    # All at once
    "several errors": (
        [
            stage(name="head", depth=None),
            stage(inputs=["hat"], block=None),
            explicit("input>a", "a>b", "b>a", "b>output", name="c", input_node={"kernel": 1}),
        ],
        [
            "name-reserved stages[0].name",
            "depth-missing stages[0]",
            "input-unknown stages[1].inputs[0]",
            "block-missing stages[1]",
            "parameter-without-block stages[2].input_node.kernel",
            "cycle stages[2].wiring.edges[2]",
        ],
    ),
}


@pytest.mark.parametrize("row", ROWS)
def test_rule(row: str):
    stages, expected = ROWS[row]
    assert sorted(findings_of(*stages)) == sorted(expected)


@pytest.mark.parametrize(
    ("stages", "text"),
    [
        ([stage(depth=9_999)], "would have 10,001 nodes, 10,001 of them in stage 'layer1'; the"),
        ([stage(depth=9_999)], "limits: {nodes: 10001}"),
        ([stage(depth=700, wiring="complete")], "up to 246,051 edges"),
        ([stage(depth=10**15)], "1,000,000,000,000,002 nodes"),
        ([explicit("input>a", "a>b", "b>c", "c>a", "c>output")], "a -> b -> c -> a"),
        ([explicit("input>a", "imput>b", "a>b", "b>output")], "did you mean 'input'?"),
        ([stage(nodes={"n4": {}})], "one of: n1, n2, n3"),
        ([stage(depth=20, nodes={"n21": {}})], "one of: n1, n2, n3, n4, ..., n19, n20"),
        ([stage(inputs=["stern"])], "did you mean 'stem'?"),
        ([stage(wiring={"kind": "ws", "k": 4, "p": 0.5})], "k is 4, which must be less than"),
        ([stage(input_node={"kernel": 1})], "kind: conv_bn_relu"),
    ],
)
def test_message(stages: list[dict[str, Any]], text: str):
    with pytest.raises(SpecError, match=re.escape(text)):
        build(spec_of(*stages))


def test_limits_can_be_lifted():
    assert findings_of(stage(depth=9_999), limits={"nodes": 10_001}) == []


def test_a_defaulted_seed_is_a_warning_only_where_something_is_drawn():
    values = {key: value for key, value in BASE.items() if key != "seed"}
    report = Report()
    stages = [stage(), stage(name="b", wiring=ER), stage(name="c", wiring=WS)]
    build(NetworkSpec.model_validate({**values, "stages": stages}), report)
    (finding,) = report.diagnostics
    assert (finding.slug, finding.path) == ("seed-defaulted", "stages[1].wiring")
    assert "b, c" in finding.message

    report = Report()
    build(NetworkSpec.model_validate({**values, "stages": stages[:1]}), report)
    assert report.diagnostics == ()


def test_names_that_would_hide_something_of_torch_are_reserved():
    torch = pytest.importorskip("torch", reason="the names are torch's")
    module = torch.fx.GraphModule(torch.nn.Module(), torch.fx.Graph())
    names = [name for name in dir(module) if re.fullmatch("[a-z][a-z0-9_]*", name)]
    assert len(names) > 50
    assert [name for name in names if reserved_for(name) is None] == []


@pytest.mark.parametrize("name", ["n1", "layer1", "left", "conv_1", "router1", "pool"])
def test_ordinary_names_are_free(name: str):
    assert reserved_for(name) is None
