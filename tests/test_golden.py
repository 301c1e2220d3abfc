"""The exact graph and the exact cost of every example; `--update-golden` rewrites them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compiler import Complexity, analyze, count
from graphspec import format_graph, json_schema, load

ROOT = Path(__file__).parents[1]
EXAMPLES = {path.stem: path for path in sorted((ROOT / "examples").glob("*.yaml"))}
GOLDEN = ROOT / "tests" / "golden"


def as_json(value: Any) -> str:
    return json.dumps(value, indent=2) + "\n"


def summary(cost: Complexity) -> dict[str, Any]:
    """The figures of the network and of each stage: node rows would drown a diff."""
    figures = ("params", "conv_macs", "macs", "activations")
    stages = list(dict.fromkeys(row.stage for row in cost.rows))
    return {
        "input_shape": list(cost.input_shape),
        **{figure: getattr(cost, figure) for figure in figures},
        "stages": {
            stage: {
                figure: sum(getattr(row, figure) for row in cost.rows if row.stage == stage)
                for figure in figures
            }
            for stage in stages
        },
    }


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_graph(name: str, golden: Callable[[str, str], None]):
    graph, warnings = analyze(load(EXAMPLES[name]))
    assert not warnings
    golden(f"{name}/graph.txt", format_graph(graph))


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_cost(name: str, golden: Callable[[str, str], None]):
    golden(f"{name}/complexity.json", as_json(summary(count(load(EXAMPLES[name])))))


def test_schema(golden: Callable[[str, str], None]):
    golden("schema.json", as_json(json_schema()))


def test_every_golden_has_an_example():
    folders = {path.name for path in GOLDEN.iterdir() if path.is_dir()}
    assert folders == {*EXAMPLES}
    files = {path.name for name in folders for path in (GOLDEN / name).iterdir()}
    assert files == {"graph.txt", "complexity.json"}
