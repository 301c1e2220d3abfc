"""Every registered pass: pure, idempotent, and what each promises."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

import graphspec
from compiler import analyze
from compiler.passes import PASSES, PIPELINE, run
from graphspec import Report, Routed, SpecError, build
from tests.strategies import specs

HEAD = "head: {kind: pooled_linear, num_classes: 2}\n"


def network(stage: str, *, shape: str = "[3, 8, 8]"):
    return graphspec.loads(
        f"version: 1\nname: t\nseed: 0\ninput_shape: {shape}\n"
        f"stem: {{kind: conv_bn_relu, width: 4}}\nstages:\n{stage}{HEAD}"
    )


def test_the_pipeline_names_registered_passes():
    assert set(PIPELINE) <= set(PASSES)


@pytest.mark.parametrize("name", PIPELINE)
@given(spec=specs())
@settings(max_examples=50)
def test_a_pass_is_idempotent_and_leaves_its_input_alone(name, spec):
    before = PIPELINE[: PIPELINE.index(name)]
    graph = run(build(spec), Report(), passes=before)
    printed = graphspec.format_graph(graph)

    once = PASSES[name]().run(graph, Report())

    assert graphspec.format_graph(graph) == printed
    assert PASSES[name]().run(once, Report()) == once


@given(spec=specs())
@settings(max_examples=50)
def test_the_finished_graph_has_shapes_and_routers_where_edges_are_routed(spec):
    graph, _ = analyze(spec)

    for stage in graph.stages:
        for index, node in enumerate(stage.nodes):
            assert node.in_shape is not None
            assert node.out_shape is not None
            routed = tuple(
                e.target for e in stage.edges if e.source == index and isinstance(e.weights, Routed)
            )
            assert (node.router.targets if node.router else ()) == routed


DEAD = """\
  - name: layer1
    width: 4
    block: basic
    wiring: {kind: explicit, edges: [[input, a], [a, output], [a, b], [b, c]]}
"""


def test_dead_nodes_go_with_a_warning_that_names_them():
    graph, warnings = analyze(network(DEAD))

    assert [node.name for node in graph.stages[0].nodes] == ["input", "a", "output"]
    assert [(e.source, e.target) for e in graph.stages[0].edges] == [(0, 1), (1, 2)]
    assert [w.slug for w in warnings] == ["dead-node", "dead-node"]
    assert "layer1.b" in warnings[0].message


MISMATCH = """\
  - name: layer1
    depth: 2
    width: 8
    stride: 2
    block: basic
    wiring: complete
"""


def test_shapes_that_do_not_fit_name_both_sources_and_the_cure():
    with pytest.raises(SpecError) as caught:
        analyze(network(MISMATCH))

    finding = caught.value.diagnostics[0]
    assert finding.slug == "shape-mismatch"
    assert "4x8x8 from layer1.input" in finding.message
    assert "8x4x4 from layer1.n1" in finding.message
    assert "input_node" in (finding.help or "")
    assert finding.span is not None


@pytest.mark.parametrize(
    ("stage", "slug"),
    [
        ("block: {kind: conv_bn_relu, groups: 3}", "not-divisible"),
        ("block: identity, stride: 2", "stride-without-block"),
    ],
)
def test_what_a_kind_asks_of_its_node_is_checked(stage, slug):
    with pytest.raises(SpecError) as caught:
        analyze(network(f"  - {{name: layer1, depth: 1, width: 4, wiring: chain, {stage}}}\n"))

    assert [d.slug for d in caught.value.diagnostics] == [slug]


def test_an_image_can_be_too_small():
    stage = (
        "  - {name: layer1, depth: 1, width: 4, wiring: chain, block: basic, "
        "output_node: {kind: max_pool, stride: 4}}\n"
    )
    with pytest.raises(SpecError) as caught:
        analyze(network(stage, shape="[3, 2, 2]"))

    assert caught.value.diagnostics[0].slug == "image-too-small"
