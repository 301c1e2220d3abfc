"""Sizes and costs that the papers and the reference implementations have, to the last digit."""

from __future__ import annotations

from statistics import mean

import pytest
import torch

from compiler import analyze, compile, count
from compiler.catalog import FOREIGN
from compiler.measure import macs_of
from graphspec import NetworkSpec, load, loads
from tests.parity.networks import EXAMPLES, PUBLISHED

# DG-Net, table 1, under the structure that its FLOPs imply: parameters, convolution MACs (M).
STATIC = {
    "mobilenet_v2": (3_504_872, "299.494"),
    "resnet18": (11_689_512, "1813.561"),
    "resnet50": (25_557_032, "4087.136"),
    "resnet101": (44_549_160, "7799.357"),
    "resnext50_32x4d": (25_028_904, "4228.432"),
    "regnetx_006": (6_196_040, "600.362"),
    "regnetx_016": (9_190_136, "1601.938"),
    "regnety_006": (6_055_160, "600.613"),
}
# Parameters, those of routers and thresholds, convolution MACs (M), all MACs (M).
DYNAMIC = {
    "mobilenet_v2": (3_565_896, 2_910, 18, "312.076", "314.698"),
    "resnet18": (11_696_832, 3_087, 9, "1826.406", "1828.653"),
    "resnet50": (25_610_856, 41_519, 17, "4125.671", "4144.620"),
    "resnet101": (44_864_376, 302_894, 34, "7837.893", "7908.282"),
    "resnext50_32x4d": (25_095_016, 41_519, 17, "4305.502", "4324.451"),
    "regnetx_006": (6_215_064, 19_009, 15, "600.362", "602.791"),
    "regnetx_016": (9_217_297, 27_143, 18, "1601.938", "1609.404"),
    "regnety_006": (6_069_138, 13_964, 14, "600.613", "603.465"),
}
NODES_PER_DYNAMIC_STAGE = {
    "mobilenet_v2": [3, 3, 4, 5, 5, 4],
    "resnet18": [4, 3, 3, 3],
    "resnet50": [5, 5, 7, 4],
    "resnet101": [5, 5, 24, 4],
    "resnext50_32x4d": [5, 5, 7, 4],
    "regnetx_006": [4, 6, 8],
    "regnetx_016": [3, 5, 11, 3],
    "regnety_006": [4, 8, 5],
}


def example(name: str, *overrides: str) -> NetworkSpec:
    return load(EXAMPLES / f"{name}.yaml", overrides)


def millions(number: int) -> str:
    return f"{number / 1e6:.3f}"


@pytest.mark.parametrize("name", STATIC)
def test_static_network(name: str):
    cost = count(example(name))
    assert (cost.params, millions(cost.conv_macs)) == STATIC[name]


@pytest.mark.parametrize("name", DYNAMIC)
def test_dynamic_network(name: str):
    cost = count(example(f"dgnet_{name}"))
    routers, thresholds = (
        sum(row.params for row in cost.rows if row.part == part) for part in ("router", "threshold")
    )
    assert (
        cost.params,
        routers,
        thresholds,
        millions(cost.conv_macs),
        millions(cost.macs),
    ) == DYNAMIC[name]


@pytest.mark.parametrize("name", NODES_PER_DYNAMIC_STAGE)
def test_nodes_of_dynamic_stages(name: str):
    graph, _ = analyze(example(f"dgnet_{name}"))
    routed = [
        stage for stage in graph.stages if any(e.weights.kind == "routed" for e in stage.edges)
    ]
    assert [len(stage.nodes) for stage in routed] == NODES_PER_DYNAMIC_STAGE[name]


@pytest.mark.parametrize("name", DYNAMIC)
def test_alpha_is_the_dynamic_network_with_one_weight_an_edge(name: str):
    dynamic, alpha = count(example(f"dgnet_{name}")), count(example(f"alpha_{name}"))
    graph, _ = analyze(example(f"alpha_{name}"))
    learned = sum(e.weights.kind == "learned" for stage in graph.stages for e in stage.edges)
    of_routing = sum(row.params for row in dynamic.rows if row.part in ("router", "threshold"))
    assert alpha.conv_macs == dynamic.conv_macs
    assert alpha.params == dynamic.params - of_routing + learned


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_of_the_reference(name: str):
    reference = PUBLISHED[name].build_reference()
    assert count(PUBLISHED[name].spec()).params == sum(p.numel() for p in reference.parameters())


def randwire(name: str, seeds: range) -> tuple[list[float], list[float]]:
    """Parameters and convolution MACs of several draws, in millions."""
    costs = [count(example(name, f"seed={seed}")) for seed in seeds]
    return [c.params / 1e6 for c in costs], [c.conv_macs / 1e6 for c in costs]


def test_randwire_ba_costs_the_same_for_every_seed():
    params, macs = randwire("randwire_ba_small", range(3))
    assert [f"{p:.3f}" for p in params] == ["5.678"] * 3
    assert [f"{m:.1f}" for m in macs] == ["582.5"] * 3


@pytest.mark.parity
@pytest.mark.parametrize(
    ("name", "params", "macs"),
    [
        ("randwire_er_small", 5.690, 583.1),
        ("randwire_ba_small", 5.678, 582.5),
        ("randwire_ws_small", 5.614, 577.8),
    ],
)
def test_randwire_small_regime(name: str, params: float, macs: float):
    all_params, all_macs = randwire(name, range(20))
    assert mean(all_params) == pytest.approx(params, rel=0.01)
    assert mean(all_macs) == pytest.approx(macs, rel=0.01)


@pytest.mark.parity
@pytest.mark.parametrize(
    ("name", "params", "params_within", "macs", "macs_within"),
    [
        # Xie et al. 2019, table 3: mean and deviation over their draws.
        ("randwire_ws_c109", 31.9, 0.66, 4000, 90),
        ("randwire_ws_c154", 61.5, 1.32, 7900, 180),
    ],
)
def test_randwire_regular_regime(
    name: str, params: float, params_within: float, macs: float, macs_within: float
):
    all_params, all_macs = randwire(name, range(5))
    assert mean(all_params) == pytest.approx(params, abs=params_within)
    assert mean(all_macs) == pytest.approx(macs, abs=macs_within)


def test_dynamic_network_of_table_4():
    static, dynamic = (
        count(example("dgnet_randwire_small", f"stage_defaults.input_node.shortcut={shortcut}"))
        for shortcut in ("false", "true")
    )
    assert millions(static.conv_macs) == "602.385"
    assert millions(dynamic.conv_macs) == "611.925"


BLOCK = """\
version: 1
name: foreign
input_shape: [3, 32, 32]
stem: {{kind: conv_bn_relu, width: 16}}
stages:
  - {{name: layer1, depth: 2, width: 16, wiring: chain, block: {{kind: {block}}}}}
head: {{kind: pooled_linear, num_classes: 10}}
"""
PARAMETERS = {"timm_regnet": ", group_width: 8", "torchvision_regnet": ", group_width: 8"}


@pytest.mark.parity
@pytest.mark.parametrize("kind", FOREIGN)
def test_blocks_of_other_libraries_cost_what_torchs_flop_counter_finds(kind: str):
    spec = loads(BLOCK.format(block=kind + PARAMETERS.get(kind, "")))
    model = compile(spec).eval()
    assert count(spec).macs == macs_of(model, torch.zeros(1, 3, 32, 32))
    assert count(spec).params == sum(parameter.numel() for parameter in model.parameters())
