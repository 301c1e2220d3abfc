from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given

from graphspec import NetworkSpec, RouterCall, build, format_graph, format_stage, loads
from graphspec.printer import name_ranges
from tests.graphspec.test_build import STAGE, spec_of
from tests.strategies import specs

SPEC = """\
version: 1
name: printed
seed: 1
input_shape: [3, 32, 32]
stem: {kind: conv_bn_relu, width: 16}
stages:
  - name: layer1
    depth: 5
    width: 32
    stride: 2
    block: {kind: bottleneck, shortcut: false}
    input_node: bottleneck
    wiring: complete
    edge_weights: routed
    nodes: {n5: {kind: conv_bn_relu, kernel: 1, width: 16}}
  - name: cell
    width: 32
    inputs: [stem, layer1]
    block: separable_conv
    wiring:
      kind: explicit
      edges:
        - [stem, left]
        - [layer1, right]
        - {source: left, target: output, edge_weights: learned}
        - {source: right, target: output, edge_weights: {kind: fixed, value: 0.5}}
    nodes: {left: {stride: 2}}
    output_node: {kind: max_pool, stride: 2, aggregate: mean}
  - name: dense
    depth: 4
    width: 8
    block: dense_layer
    wiring: complete
    aggregate: concat
head: {kind: pooled_linear, num_classes: 10}
"""

TEXT = """\
network printed
input   3x32x32
stem    conv_bn_relu  width 16

stage layer1 <- stem  (7 nodes, 21 edges)
  block bottleneck: shortcut=false
  block bottleneck:2: no parameters
  block conv_bn_relu: kernel=1
  edges routed: router=pooled_linear, bias_init=3.0, threshold=0.0, learnable_threshold=true, \
inference=consistent
  input   bottleneck:2  width 32, stride 2
  n1      bottleneck    width 32            <- routed(input)
  n2      bottleneck    width 32            <- routed(input, n1)
  n3      bottleneck    width 32            <- routed(input, n1, n2)
  n4      bottleneck    width 32            <- routed(input, n1..n3)
  n5      conv_bn_relu  width 16            <- routed(input, n1..n4)
  output  identity                          <- routed(input, n1..n5)

stage cell <- stem, layer1  (5 nodes, 4 edges)
  edges learned: function=sigmoid, init=0.0
  stem    identity
  layer1  identity
  left    separable_conv  width 32, stride 2  <- stem
  right   separable_conv  width 32            <- layer1
  output  max_pool        width 32, stride 2  <- mean(learned(left), 0.5*(right))

stage dense <- cell  (6 nodes, 15 edges)
  input   identity
  n1      dense_layer  width 8  <- concat(input)
  n2      dense_layer  width 8  <- concat(input, n1)
  n3      dense_layer  width 8  <- concat(input, n1, n2)
  n4      dense_layer  width 8  <- concat(input, n1..n3)
  output  identity              <- concat(input, n1..n4)

head    pooled_linear  10 classes
"""


def test_a_graph_as_text():
    assert format_graph(build(loads(SPEC))) == TEXT


def test_one_stage_as_text():
    graph = build(loads(SPEC))
    assert TEXT.count(format_stage(graph.stages[1])) == 1


def test_shapes_and_routers_once_they_are_known():
    stage = build(spec_of({**STAGE, "depth": 1, "stride": 2, "edge_weights": "routed"})).stages[0]
    source, node, output = stage.nodes
    known = replace(
        stage,
        nodes=(
            replace(
                source,
                in_shape=(4, 8, 8),
                out_shape=(4, 8, 8),
                router=RouterCall("pooled_linear", (1,)),
            ),
            replace(node, in_shape=(4, 8, 8), out_shape=(8, 4, 4)),
            replace(output, in_shape=(8, 4, 4), out_shape=(8, 4, 4)),
        ),
    )
    assert format_stage(known).splitlines()[-3:] == [
        "  input   identity    4x8x8                                       router -> n1",
        "  n1      bottleneck  4x8x8 -> 8x4x4, stride 2  <- routed(input)",
        "  output  identity    8x4x4                     <- routed(n1)",
    ]


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["input"], "input"),
        (["n1", "n2"], "n1, n2"),
        (["input", "n1", "n2", "n3"], "input, n1..n3"),
        (["n8", "n9", "n10", "n11", "n13"], "n8..n11, n13"),
        (["a1", "b2", "b3", "b4", "c5"], "a1, b2..b4, c5"),
        (["n08", "n09", "n10", "n11"], "n08, n09, n10, n11"),
        (["left", "right"], "left, right"),
        (["n1", "n3", "n2"], "n1, n3, n2"),
    ],
)
def test_name_ranges(names: list[str], text: str):
    assert name_ranges(names) == text


@given(specs(), specs())
def test_different_graphs_print_differently(one: NetworkSpec, other: NetworkSpec):
    first, second = build(one), build(other)
    assert format_graph(first) == format_graph(build(one))
    assert (format_graph(first) == format_graph(second)) == (first == second)


@pytest.mark.parametrize(
    "change",
    [
        {"width": 16},
        {"stride": 2},
        {"aggregate": "mean"},
        {"edge_weights": {"kind": "fixed", "value": 2}},
        {"edge_weights": {"kind": "learned", "init": 1.0}},
        {"edge_weights": {"kind": "routed", "threshold": None}},
        {"block": "bottleneck"},
        {"nodes": {"n2": {"shortcut": False}}},
        {"nodes": {"n2": {"aggregate": "concat"}}},
        {"nodes": {"n2": "identity"}},
    ],
)
def test_every_choice_is_in_the_text(change: dict[str, object]):
    assert format_graph(build(spec_of({**STAGE, **change}))) != format_graph(build(spec_of(STAGE)))
