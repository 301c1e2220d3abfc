from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import networkx as nx
import pytest

from graphspec import (
    BlockSpec,
    EndNodeSpec,
    NetworkBuilder,
    NodeSpec,
    Routed,
    SpecError,
    StageSpec,
    build,
    dump,
    from_networkx,
    kind,
    loads,
    network,
)
from graphspec.wiring.ws import WattsStrogatz

TINY = """\
version: 1
name: tiny
seed: 7
input_shape: [3, 32, 32]
stem: {kind: conv_bn_relu, width: 16}
stages:
  - name: layer1
    depth: 3
    width: 16
    block: {kind: bottleneck, expansion: 4}
    input_node: {kind: conv_bn_relu, kernel: 1}
    wiring: complete
    edge_weights: {kind: routed, threshold: null}
  - name: layer2
    depth: 6
    width: 32
    stride: 2
    block: separable_conv
    wiring: {kind: ws, k: 4, p: 0.75}
    output_node: {aggregate: mean, edge_weights: fixed}
    edge_weights: learned
    nodes: {n2: {shortcut: true, width: 32}, n3: basic}
head: {kind: pooled_linear, num_classes: 10}
limits: {nodes: 100}
"""


def start() -> NetworkBuilder:
    return network("net", input_shape=(3, 8, 8), seed=1).stem("conv_bn_relu", width=8)


def test_the_builder_says_what_yaml_says():
    spec = (
        network("tiny", input_shape=(3, 32, 32), seed=7)
        .stem("conv_bn_relu", width=16)
        .stage(
            "layer1",
            depth=3,
            width=16,
            block=kind("bottleneck", expansion=4),
            input_node=kind("conv_bn_relu", kernel=1),
            wiring="complete",
            edge_weights=kind("routed", threshold=None),
        )
        .stage(
            "layer2",
            depth=6,
            width=32,
            stride=2,
            block="separable_conv",
            wiring=kind("ws", k=4, p=0.75),
            output_node={"aggregate": "mean", "edge_weights": "fixed"},
            edge_weights="learned",
            nodes={"n2": {"shortcut": True, "width": 32}, "n3": "basic"},
        )
        .head("pooled_linear", num_classes=10)
        .limits(nodes=100)
        .build_spec()
    )
    assert spec == loads(TINY)
    assert loads(dump(spec)) == spec


def test_models_may_stand_for_mappings():
    spec = (
        network("tiny", input_shape=[3, 32, 32], seed=7)
        .stem("conv_bn_relu", width=16)
        .stage(
            "layer1",
            depth=3,
            width=16,
            block=BlockSpec.model_validate({"kind": "bottleneck", "expansion": 4}),
            input_node=EndNodeSpec.model_validate({"kind": "conv_bn_relu", "kernel": 1}),
            wiring="complete",
            edge_weights=Routed(threshold=None),
        )
        .stage(
            "layer2",
            depth=6,
            width=32,
            stride=2,
            block="separable_conv",
            wiring=WattsStrogatz(k=4, p=0.75),
            output_node=EndNodeSpec.model_validate({"aggregate": "mean", "edge_weights": "fixed"}),
            edge_weights="learned",
            nodes={
                "n2": NodeSpec.model_validate({"shortcut": True, "width": 32}),
                "n3": NodeSpec(kind="basic"),
            },
        )
        .head("pooled_linear", num_classes=10)
        .limits(nodes=100)
        .build_spec()
    )
    assert spec == loads(TINY)


def test_whole_stages_keep_their_place_and_their_words():
    stage = loads(TINY).stages[1]
    spec = (
        start()
        .stage("layer1", depth=1, width=8, block="basic", wiring="chain")
        .stage(stage)
        .head("pooled_linear", num_classes=2)
        .build_spec()
    )
    assert spec.stages[1] == stage
    assert "p: 0.75" in dump(spec)
    with pytest.raises(TypeError, match="a whole stage needs no width"):
        start().stage(stage, width=3)


def test_variants_share_a_start():
    base = start()
    one = base.stage("a", depth=1, width=8, block="basic", wiring="chain")
    two = one.stage("b", depth=2, width=8, block="basic", wiring="chain")
    finished = [b.head("pooled_linear", num_classes=2).build_spec() for b in (one, two)]
    assert [len(spec.stages) for spec in finished] == [1, 2]
    assert "stages" not in base.values


def test_all_mistakes_come_at_once_in_the_words_of_the_language():
    with pytest.raises(SpecError) as raised:
        (
            start()
            .stage("a", depth=0, width=8, block="basik", wiring="chian")
            .stage("b", width=8, block="basic", wiring=kind("er", q=3))
            .build_spec()
        )
    found = {(finding.slug, finding.path) for finding in raised.value.diagnostics}
    assert found == {
        ("out-of-range", "stages[0].depth"),
        ("unknown-kind", "stages[0].block.kind"),
        ("unknown-kind", "stages[0].wiring.kind"),
        ("unknown-key", "stages[1].wiring.q"),
        ("missing-key", "stages[1].wiring.p"),
        ("missing-key", "head"),
    }


def test_cross_field_rules_hold_too():
    builder = start().stage("a", width=8, block="basic", wiring="chain")
    with pytest.raises(SpecError, match="depth-missing"):
        builder.head("pooled_linear", num_classes=2).build_spec()


def edges_of(stage: StageSpec) -> list[tuple[str, str]]:
    spec = start().stage(stage).head("pooled_linear", num_classes=2).build_spec()
    wired = build(spec).stages[0]
    names = [node.name for node in wired.nodes]
    return [(names[edge.source], names[edge.target]) for edge in wired.edges]


def stage_of(graph: nx.DiGraph[Any], **values: Any) -> StageSpec:
    return from_networkx(graph, **{"name": "cell", "width": 8, "block": "basic", **values})


def test_sources_and_sinks_of_a_digraph_are_joined_to_the_ends():
    graph = nx.DiGraph([("a", "c"), ("b", "c"), ("b", "d")])
    assert edges_of(stage_of(graph)) == [
        ("input", "a"),
        ("input", "b"),
        ("a", "c"),
        ("b", "c"),
        ("b", "d"),
        ("c", "output"),
        ("d", "output"),
    ]


def test_drawn_ends_are_kept_as_they_are():
    graph = nx.DiGraph([("input", "a"), ("input", "b"), ("a", "b"), ("b", "output")])
    assert sorted(edges_of(stage_of(graph))) == sorted(graph.edges)


def test_nodes_keep_the_order_of_the_digraph_where_edges_allow():
    graph = nx.DiGraph()
    graph.add_nodes_from([3, 1, 2, 0])
    graph.add_edges_from([(0, 3), (1, 2)])
    spec = start().stage(stage_of(graph)).head("pooled_linear", num_classes=2).build_spec()
    names = [node.name for node in build(spec).stages[0].nodes]
    assert names == ["input", "n1", "n2", "n0", "n3", "output"]


def test_labels_become_names():
    labels = ["Conv 1", "conv_1", 3, (1, 2), "train", "ß", "left"]
    graph: nx.DiGraph[Any] = nx.DiGraph(pairwise(labels))
    targets = [target for _, target in edges_of(stage_of(graph))]
    assert targets == ["conv_1", "conv_1_2", "n3", "n1_2", "train_2", "n", "left", "output"]


def test_attributes():
    graph: nx.DiGraph[Any] = nx.DiGraph()
    graph.add_node("a", block=kind("conv_bn_relu", kernel=1), stride=2)
    graph.add_node("b", block={"shortcut": False}, width=4, aggregate="mean")
    graph.add_node("c", block="identity")
    graph.add_edge("a", "b", edge_weights=Routed(threshold=None))
    graph.add_edge("b", "c", edge_weights="learned")
    stage = stage_of(graph, stride=2, edge_weights="fixed", output_node="max_pool")
    wired = build(start().stage(stage).head("pooled_linear", num_classes=2).build_spec()).stages[0]
    by_name = {node.name: node for node in wired.nodes}
    assert by_name["a"].stride == 2
    assert by_name["a"].block is not None
    assert by_name["a"].block.params == (("kernel", 1),)
    assert by_name["b"].block is not None
    assert by_name["b"].block.kind == "basic"
    assert (by_name["b"].width, by_name["b"].aggregate) == (4, "mean")
    assert by_name["c"].block is None
    assert [type(edge.weights).__name__ for edge in wired.edges] == [
        "Fixed",
        "Routed",
        "Learned",
        "Fixed",
    ]
    assert wired.edges[1].weights == Routed(threshold=None)


def test_several_inputs():
    graph = nx.DiGraph([("stem", "a"), ("first", "b"), ("a", "b")])
    first = stage_of(nx.DiGraph([(1, 2)]), name="first")
    second = stage_of(graph, name="second", inputs=["stem", "first"])
    spec = start().stage(first).stage(second).head("pooled_linear", num_classes=2).build_spec()
    wired = build(spec).stages[1]
    assert wired.inputs == ("stem", "first")
    assert [node.name for node in wired.nodes] == ["stem", "first", "a", "b", "output"]


def test_a_random_graph_of_networkx_is_a_stage():
    undirected = nx.connected_watts_strogatz_graph(16, 4, 0.5, seed=1)
    stage = stage_of(nx.DiGraph((min(edge), max(edge)) for edge in undirected.edges))
    inner = [edge for edge in edges_of(stage) if not {"input", "output"} & set(edge)]
    assert len(inner) == undirected.number_of_edges()


def digraph(*edges: Any, **attributes: Any) -> nx.DiGraph[Any]:
    graph: nx.DiGraph[Any] = nx.DiGraph(edges)
    graph.nodes["a"].update(attributes)
    return graph


@pytest.mark.parametrize(
    ("make", "slug", "path", "text"),
    [
        (lambda: stage_of(nx.path_graph(3)), "graph-undirected", "", "nx.DiGraph"),
        (lambda: stage_of(nx.MultiDiGraph([("a", "b")])), "graph-multi", "", "one edge"),
        (lambda: stage_of(nx.DiGraph()), "graph-empty", "", "no nodes"),
        (lambda: stage_of(digraph("ab", "bc", "ca")), "cycle", "", "a -> b -> c -> a"),
        (lambda: stage_of(digraph("aa", "ab")), "cycle", "", "a -> a"),
        (lambda: stage_of(digraph("ab", pos=3)), "unknown-key", "nodes.a.pos", "block, width"),
        (
            lambda: stage_of(digraph(("a", "b", {"weight": 2}))),
            "unknown-key",
            "wiring.edges.'a -> b'.weight",
            "edge_weights",
        ),
        (lambda: stage_of(digraph("ab", width="8")), "wrong-type", "nodes.a.width", "integer"),
        (lambda: stage_of(digraph("ab", block="basik")), "unknown-kind", "nodes.a.kind", "'basic'"),
        (lambda: stage_of(digraph("ab"), name="A"), "bad-name", "name", "'A'"),
        (
            lambda: stage_of(digraph("ab"), name="x", inputs=["stem", "b"]),
            "node-without-input",
            "nodes.a",
            "stem, b",
        ),
    ],
)
def test_wrong_digraphs(make: Callable[[], StageSpec], slug: str, path: str, text: str):
    with pytest.raises(SpecError) as raised:
        make()
    (finding,) = raised.value.diagnostics
    assert (finding.slug, finding.path) == (slug, path)
    assert text in f"{finding.message} {finding.help}"
