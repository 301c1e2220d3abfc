from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from graphspec.errors import Report
from graphspec.layers import merge, read_layers
from graphspec.source import Tree, plain, provenance, read

BASE = """
version: 1
name: base
input_shape: [3, 32, 32]
stem: conv_bn_relu
stage_defaults:
  block: {kind: bottleneck, groups: 2}
  wiring: complete
stages:
  - {name: layer1, depth: 3, width: 16}
  - {name: layer2, depth: 3, width: 32, block: {kind: basic}}
head: {kind: pooled_linear, num_classes: 10}
"""


def tree_of(text: str) -> Tree:
    report = Report()
    tree = read(text, "f", report)
    assert tree is not None
    assert not report.diagnostics
    return tree


def merged(text: str, *overrides: str, path: Path | None = None) -> Any:
    return plain(merged_tree(text, *overrides, path=path))


def merged_tree(text: str, *overrides: str, path: Path | None = None) -> Tree:
    report = Report()
    tree = read_layers(text, str(path or "f"), overrides, report, path)
    assert not report.diagnostics, report.diagnostics
    assert tree is not None
    return tree


@pytest.mark.parametrize(
    ("lower", "upper", "result"),
    [
        ("{a: 1, b: 2}", "{b: 3, c: 4}", "{a: 1, b: 3, c: 4}"),
        ("{a: {x: 1}}", "{a: {y: 2}}", "{a: {x: 1, y: 2}}"),
        ("[1, 2, 3]", "[4]", "[4]"),
        ("{a: [1, 2]}", "{a: [3]}", "{a: [3]}"),
        ("{a: {x: 1}}", "{a: 5}", "{a: 5}"),
        ("{a: {x: 1}}", "{a: ~}", "{a: ~}"),
        ("{kind: er, p: 0.2}", "{p: 0.3}", "{kind: er, p: 0.3}"),
        ("{kind: er, p: 0.2}", "{kind: er}", "{kind: er, p: 0.2}"),
        ("{kind: er, p: 0.2}", "{kind: ws, k: 4}", "{kind: ws, k: 4}"),
        ("{p: 0.2}", "{kind: er}", "{p: 0.2, kind: er}"),
        ("{kind: er, p: 0.2}", "er", "{kind: er, p: 0.2}"),
        ("{kind: er, p: 0.2}", "chain", "{kind: chain}"),
        ("er", "{p: 0.2}", "{kind: er, p: 0.2}"),
        ("er", "{kind: ws, p: 0.2}", "{kind: ws, p: 0.2}"),
        ("er", "ws", "ws"),
        ("{w: {kind: a, x: 1}}", "{w: {kind: b}, v: 1}", "{w: {kind: b}, v: 1}"),
    ],
)
def test_merge(lower: str, upper: str, result: str):
    assert plain(merge(tree_of(lower), tree_of(upper))) == yaml.safe_load(result)


def test_stage_defaults_lie_under_each_stage():
    stages = merged(BASE)["stages"]
    assert stages[0]["block"] == {"kind": "bottleneck", "groups": 2}
    assert stages[1]["block"] == {"kind": "basic"}
    assert [stage["wiring"] for stage in stages] == [{"kind": "complete"}] * 2
    assert "stage_defaults" not in merged(BASE)


def test_bare_kinds_are_spelled_out():
    text = """
stem: a
head: b
stages:
  - block: c
    input_node: {kind: d, edge_weights: e}
    output_node: f
    wiring: {kind: explicit, edges: [[x, y], {source: x, target: y, edge_weights: g}]}
    edge_weights: h
    nodes: {n1: i, n2: {width: 3}}
"""
    assert merged(text) == {
        "stem": {"kind": "a"},
        "head": {"kind": "b"},
        "stages": [
            {
                "block": {"kind": "c"},
                "input_node": {"kind": "d", "edge_weights": {"kind": "e"}},
                "output_node": {"kind": "f"},
                "wiring": {
                    "kind": "explicit",
                    "edges": [
                        ["x", "y"],
                        {"source": "x", "target": "y", "edge_weights": {"kind": "g"}},
                    ],
                },
                "edge_weights": {"kind": "h"},
                "nodes": {"n1": {"kind": "i"}, "n2": {"width": 3}},
            }
        ],
    }


def test_extends(tmp_path: Path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "base.yaml").write_text("extends: ../root.yaml\nseed: 2\nname: base\n")
    (tmp_path / "root.yaml").write_text(BASE)
    (tmp_path / "other.yaml").write_text("seed: 3\nstage_defaults: {wiring: chain, stride: 2}\n")
    text = """
extends: [sub/base.yaml, other.yaml]
name: top
stages:
  layer2: {depth: 9, block: {shortcut: false}}
  layer3: {depth: 1, width: 64}
"""
    spec = merged(text, path=tmp_path / "top.yaml")
    assert (spec["name"], spec["seed"], spec["version"]) == ("top", 3, 1)
    assert "extends" not in spec
    assert spec["stages"] == [
        {
            "name": "layer1",
            "depth": 3,
            "width": 16,
            "block": {"kind": "bottleneck", "groups": 2},
            "wiring": {"kind": "chain"},
            "stride": 2,
        },
        {
            "name": "layer2",
            "depth": 9,
            "width": 32,
            "block": {"kind": "basic", "shortcut": False},
            "wiring": {"kind": "chain"},
            "stride": 2,
        },
        {
            "name": "layer3",
            "depth": 1,
            "width": 64,
            "block": {"kind": "bottleneck", "groups": 2},
            "wiring": {"kind": "chain"},
            "stride": 2,
        },
    ]


def test_a_list_of_stages_replaces_those_below(tmp_path: Path):
    (tmp_path / "base.yaml").write_text(BASE)
    spec = merged("extends: base.yaml\nstages: [{name: only}]", path=tmp_path / "top.yaml")
    assert [stage["name"] for stage in spec["stages"]] == ["only"]


def test_a_file_extended_twice_is_fine(tmp_path: Path):
    (tmp_path / "root.yaml").write_text("seed: 1\n")
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text("extends: root.yaml\n")
    spec = merged("extends: [a.yaml, b.yaml]\nname: x", path=tmp_path / "top.yaml")
    assert spec == {"seed": 1, "name": "x"}


def test_a_stage_that_says_nothing_changes_nothing(tmp_path: Path):
    (tmp_path / "base.yaml").write_text(BASE)
    spec = merged("extends: base.yaml\nstages: {layer1: , layer2: {}}", path=tmp_path / "t.yaml")
    assert spec == merged(BASE)


def test_every_leaf_keeps_its_origin(tmp_path: Path):
    (tmp_path / "base.yaml").write_text(BASE)
    tree = merged_tree(
        "extends: base.yaml\nname: top\nstages:\n  layer2: {depth: 9}\n",
        "stages.layer1.depth=4",
        "stage_defaults.block.groups=8",
        path=tmp_path / "top.yaml",
    )
    values = provenance(tree).values
    places = {
        path: str(span).replace(f"{tmp_path}/", "")
        for path, span in values.items()
        if path[-1:] in {("depth",), ("groups",), ("name",), ("kind",), ("num_classes",)}
    }
    assert places == {
        ("name",): "top.yaml:2:7",
        ("stem", "kind"): "base.yaml:5:7",
        ("stages", 0, "name"): "base.yaml:10:12",
        ("stages", 0, "depth"): "--set #1:1:21",
        ("stages", 0, "block", "kind"): "base.yaml:7:17",
        ("stages", 0, "block", "groups"): "--set #2:1:29",
        ("stages", 0, "wiring", "kind"): "base.yaml:8:11",
        ("stages", 1, "name"): "top.yaml:4:3",
        ("stages", 1, "depth"): "top.yaml:4:19",
        ("stages", 1, "block", "kind"): "base.yaml:11:55",
        ("stages", 1, "wiring", "kind"): "base.yaml:8:11",
        ("head", "kind"): "base.yaml:12:14",
        ("head", "num_classes"): "base.yaml:12:42",
    }


@pytest.mark.parametrize(
    ("override", "where", "value"),
    [
        ("seed=7", ["seed"], 7),
        ("name=other", ["name"], "other"),
        ("name='7'", ["name"], "7"),
        ("seed=", ["seed"], None),
        ("stages.layer2.depth=6", ["stages", 1, "depth"], 6),
        ("stages[0].depth=6", ["stages", 0, "depth"], 6),
        ("stages[-1].depth=6", ["stages", 1, "depth"], 6),
        ("stages.*.width=8", ["stages", 1, "width"], 8),
        ("input_shape[2]=64", ["input_shape"], [3, 32, 64]),
        ("input_shape=[1, 28, 28]", ["input_shape"], [1, 28, 28]),
        ("stages.*.block.groups=4", ["stages", 1, "block"], {"kind": "basic", "groups": 4}),
        ("stages.layer1.block.groups=4", ["stages", 0, "block", "groups"], 4),
        ("stages.layer1.block.kind=basic", ["stages", 0, "block"], {"kind": "basic"}),
        ("stages.layer1.block=basic", ["stages", 0, "block"], {"kind": "basic"}),
        (
            "stages.layer1.block=bottleneck",
            ["stages", 0, "block"],
            {"kind": "bottleneck", "groups": 2},
        ),
        ("stages.layer1.wiring={kind: ws, k: 4}", ["stages", 0, "wiring"], {"kind": "ws", "k": 4}),
        ("stages.layer1.nodes.n1.width=4", ["stages", 0, "nodes"], {"n1": {"width": 4}}),
        ("stem.width=16", ["stem"], {"kind": "conv_bn_relu", "width": 16}),
        ("limits.nodes=3", ["limits"], {"nodes": 3}),
        ("stage_defaults.stride=2", ["stages", 1, "stride"], 2),
        ("stage_defaults.block.kind=max_pool", ["stages", 0, "block"], {"kind": "max_pool"}),
        ("~stage_defaults.block.groups", ["stages", 0, "block"], {"kind": "bottleneck"}),
        ("~stages.layer1.block.groups", ["stages", 0, "block"], {"kind": "bottleneck"}),
        ("~input_shape[0]", ["input_shape"], [32, 32]),
        ("~stages.layer1", ["stages", 0, "name"], "layer2"),
        ("~stages.*", ["stages"], []),
        ("~head.*", ["head"], {}),
    ],
)
def test_overrides(override: str, where: list[Any], value: object):
    found = merged(BASE, override)
    for part in where:
        found = found[part]
    assert found == value


def test_a_dropped_key_is_gone():
    assert "head" not in merged(BASE, "~head")
    assert "stage_defaults" not in merged(BASE, "~stage_defaults")


def test_overrides_apply_in_order():
    assert merged(BASE, "seed=1", "seed=2")["seed"] == 2
    spec = merged(BASE, "stages.layer1.block=basic", "stages.layer1.block.shortcut=false")
    assert spec["stages"][0]["block"] == {"kind": "basic", "shortcut": False}


def test_one_run_reports_all_wrong_overrides():
    report = Report()
    tree = read_layers(BASE, "f", ["stages.layer9.depth=3", "no", "~nope", "seed=3"], report)
    assert tree is not None
    assert plain(tree)["seed"] == 3
    assert [(d.slug, d.span and d.span.file) for d in report.errors] == [
        ("override-path", "--set #1"),
        ("override-syntax", "--set #2"),
        ("override-path", "--set #3"),
    ]
