"""`graphc reproduce`: what it lists exists, and what it compares is compared as it says."""

from __future__ import annotations

import json
import shlex

import pytest

from compiler.cli import _latency, main
from compiler.cli.train import command as train
from compiler.paper import TABLES, TRAINING_ONLY, Cell, example
from compiler.training.recipes import load_recipe
from graphspec import load


def listed() -> dict[str, tuple[str, ...]]:
    commands = {name: table.training for name, table in TABLES.items()}
    return commands | {name: commands for name, (_, commands) in TRAINING_ONLY.items()}


def test_the_list_has_every_table_and_its_commands(capsys: pytest.CaptureFixture[str]):
    assert main(["reproduce", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["here"].keys() == {*TABLES, "table3"}
    assert answer["training"] == {name: list(commands) for name, commands in listed().items()}
    assert main(["reproduce"]) == 0
    text = capsys.readouterr().out
    assert all(command in text for commands in listed().values() for command in commands)


COMMANDS = sorted({c for commands in listed().values() for c in commands if "graphc" in c})


@pytest.mark.parametrize("command", COMMANDS)
def test_a_listed_command_can_be_given(command: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(example("resnet18").parent.parent)
    program, verb, *arguments = shlex.split(command)
    assert (program, verb) == ("graphc", "train")
    given = train.make_context(verb, arguments).params
    spec = load(given["spec"], given["overrides"])
    assert (spec.input_shape, spec.head.num_classes) == ((3, 224, 224), 1000)
    recipe = load_recipe(given["recipe"])
    assert recipe.resized_crop or recipe.detection is not None
    assert (given["task"] == "detection") == (recipe.detection is not None)


def test_a_table_is_counted_anew(capsys: pytest.CaptureFixture[str]):
    assert main(["reproduce", "table5", "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)["rows"]
    assert first["cells"]["params"]["agrees"]
    assert first["cells"]["FLOPs"]["ours"] == pytest.approx(600.362, abs=1e-3)
    assert second["cells"]["params"]["note"] and not second["cells"]["params"]["agrees"]


@pytest.mark.parametrize(
    ("paper", "ours", "digits", "agrees"),
    [
        (3.51, 3.505, 2, True),
        (25.55, 25.557, 2, True),  # cut off, not rounded
        (3.58, 3.566, 2, False),
        (602, 587.3, 0, False),
        (None, 1.0, 0, None),
    ],
)
def test_a_cell_agrees_if_rounding_or_cutting_off_gives_the_papers(paper, ours, digits, agrees):
    assert Cell(paper, ours, digits).agrees is agrees


def test_latencies_are_ratios_to_the_static_network(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(_latency, "BATCHES", (1,))
    monkeypatch.setattr(_latency, "ROUNDS", 1)
    assert main(["reproduce", "table3", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert (row["network"], row["batch"]) == ("DG-MobileNetV2, masked", 1)
    assert row["mac_ratio"] == pytest.approx(314.698 / 300.774, abs=1e-4)
    assert row["time_ratio"] == pytest.approx(row["ms"] / row["static_ms"])
