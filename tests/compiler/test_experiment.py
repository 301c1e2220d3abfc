from __future__ import annotations

import json
import os
import re
import shlex
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from compiler.cli import main
from compiler.experiments.plan import plan, read_experiment
from compiler.experiments.results import (
    Measurement,
    Spread,
    as_csv,
    as_markdown,
    draw_results,
    summarize,
)
from graphspec import SpecError
from tests.coco import read_annotations, write_annotations, write_coco

FOLDER = Path(__file__).parents[2] / "examples" / "experiments"
FILES = sorted(FOLDER.glob("*.yaml"))
GOOD = """\
version: 1
name: small
title: A small experiment
data: digits
recipe_set: [epochs=3, warmup_epochs=0]
seeds: [0, 1]
networks:
  - name: a
    spec: {spec}
    set: [stages.layer1.depth=2]
  - name: b
    spec: {spec}
    recipe_set: [lr=0.01]
"""


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(GOOD.format(spec=FOLDER / "specs" / "tiny_digits.yaml"))
    return path


def measurement(row: str, seed: int, accuracy: float) -> Measurement:
    return Measurement(row, row.partition(",")[0], seed, accuracy, 10, 100, 2.5, f"{row}/{seed}")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_files_are_right_and_their_specs_load(path: Path):
    experiment = read_experiment(path)
    assert experiment.name == path.stem
    runs = plan(experiment, path, Path("runs"))
    assert len(runs) == len(experiment.networks) * len(experiment.seeds)
    assert len({run.folder for run in runs}) == len(runs)
    assert experiment.commands_only == path.stem.endswith("_paper")


def test_every_comparison_has_three_sizes():
    sizes = {"digits", "small", "paper"}
    for name in ("table6", "table4", "figure4", "inference_rules"):
        assert {path.stem.removeprefix(f"{name}_") for path in FOLDER.glob(f"{name}_*")} == sizes


def test_plan_orders_by_seed_and_lays_changes_over_each_other(file):
    runs = plan(read_experiment(file), file, file.parent, recipe_overrides=["epochs=1"])
    assert [(run.seed, run.network) for run in runs] == [(0, "a"), (0, "b"), (1, "a"), (1, "b")]
    assert runs[0].job.spec.stages[0].depth == 2
    assert (runs[0].job.recipe.epochs, runs[0].job.recipe.lr) == (1, 0.1)
    assert runs[1].job.recipe.lr == 0.01
    words = shlex.split(runs[1].command)
    assert words[:2] == ["graphc", "train"]
    assert words[words.index("--seed") + 1] == "0"
    assert "lr=0.01" in words and "epochs=1" in words


def test_other_epochs_are_other_folders(file):
    experiment = read_experiment(file)
    first = plan(experiment, file, file.parent)
    other = plan(experiment, file, file.parent, recipe_overrides=["epochs=1"])
    assert not {run.folder for run in first} & {run.folder for run in other}


@pytest.mark.parametrize("options", ["[--amp, bf16]", "[--amp=bf16]"])
def test_bf16_makes_other_runs(file, options):
    plain = plan(read_experiment(file), file, file.parent)
    file.write_text(file.read_text() + f"options: {options}\n")
    other = plan(read_experiment(file), file, file.parent)
    assert not {run.folder for run in plain} & {run.folder for run in other}


def test_other_initial_weights_are_other_folders(file):
    plain = plan(read_experiment(file), file, file.parent)
    file.write_text(file.read_text() + "    init_weights: there_is_none.safetensors\n")
    other = plan(read_experiment(file), file, file.parent)
    assert [run.folder for run in plain[::2]] == [run.folder for run in other[::2]]
    assert not {run.folder for run in plain[1::2]} & {run.folder for run in other[1::2]}


def test_redraw_gives_every_seed_wirings_of_its_own():
    path = FOLDER / "table4_digits.yaml"
    runs = plan(read_experiment(path), path, Path("runs"))
    assert all(run.job.spec.seed == run.seed for run in runs)


@pytest.mark.parametrize(
    ("old", "new", "message", "line"),
    [
        ("title:", "tilte:", "unknown key 'tilte'", 3),
        ("data: digits\n", "", "'data' is missing", 1),
        ("seeds: [0, 1]", "seeds: [0, x]", "valid integer", 6),
        ("seeds: [0, 1]", "seeds: [1, 1]", "different whole numbers", 6),
        ("name: b", "name: a", "a second network is called 'a'", 11),
        ("lr=0.01", "lr=-1", "not within", 13),
        ("set: [stages", "sett: [stages", "unknown key 'sett'", 10),
        ("tiny_digits.yaml\n    set", "none.yaml\n    set", "there is no file", 9),
        ("data: digits", "data: digit", "no data 'digit'; did you mean 'digits'?", 4),
        ("data: digits", "data: images.npz", "no recipe is made for images.npz", 1),
        ("seeds:", "options: [--amp, bf16, --lr=1]\nseeds:", "--lr is not said here", 6),
    ],
)
def test_mistakes_have_their_place(file, old, new, message, line):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    with pytest.raises(SpecError) as caught:
        read_experiment(file)
    found = [d for d in caught.value.diagnostics if message in d.message]
    assert found, caught.value
    assert found[0].span.line == line


def test_spread_is_mean_and_sample_deviation():
    values = [0.9, 0.95, 0.97]
    assert Spread.of(values) == Spread(statistics.fmean(values), statistics.stdev(values), 3)
    assert Spread.of([0.5]).std is None
    assert Spread.of(values).text(1, scale=100) == "94.0 ± 3.6"
    assert Spread.of([0.5]).text(2, signed=True) == "+0.50"


def test_differences_are_paired_by_seed(file):
    found = [
        measurement("a", 0, 0.80),
        measurement("a", 1, 0.90),
        measurement("b", 0, 0.85),
        measurement("b", 1, 0.95),
        measurement("b", 2, 0.10),
    ]
    results = summarize(read_experiment(file), [], found)
    first, second = results.rows
    assert first.difference is None
    assert second.difference.mean == pytest.approx(0.05)
    assert second.difference.std == pytest.approx(0)
    assert second.difference.count == 2
    assert second.seeds == (0, 1, 2)


def test_what_the_seeds_do_not_tell_apart_is_said(file):
    found = [
        *(measurement("a", seed, value) for seed, value in enumerate((0.80, 0.90, 0.85))),
        *(measurement("b", seed, value) for seed, value in enumerate((0.90, 0.82, 0.86))),
    ]
    text = as_markdown(summarize(read_experiment(file), [], found))
    assert "| b | 3 | 86.00 ± 4.00 | +1.00 ± 9.00 | 10 | 100 | 2.5 |" in text
    assert "Not told apart from `a`" in text
    clear = [*found[:3], *(measurement("b", m.seed, m.accuracy + 0.05) for m in found[:3])]
    assert "Not told apart" not in as_markdown(summarize(read_experiment(file), [], clear))


def test_files_of_results(file, tmp_path):
    found = [measurement("a", 0, 0.8), measurement("b", 0, 0.9), measurement("b, soft", 0, 0.9)]
    results = summarize(read_experiment(file), [], found)
    assert [row.name for row in results.rows] == ["a", "b", "b, soft"]
    assert as_csv(results).splitlines()[0].startswith("row,network,seed,accuracy")
    assert len(as_csv(results).splitlines()) == 4
    draw_results(results, tmp_path / "results")
    assert (tmp_path / "results.png").read_bytes()[:4] == b"\x89PNG"
    assert "<svg" in (tmp_path / "results.svg").read_text()


def test_commands_alone(file, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(["experiment", str(file), "--commands", "--seeds", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("graphc train ") and "--seed 3" in line for line in lines)
    assert not Path("runs").exists()


def test_paper_sizes_are_commands_for_many_processes(capsys):
    assert main(["experiment", str(FOLDER / "table6_paper.yaml")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 9
    assert all(line.startswith("torchrun --nproc-per-node 8 --no-python graphc") for line in lines)
    assert all(" --run-folder " in line for line in lines)  # torchrun takes `--run` for its own


def test_data_that_is_not_there_stops_everything(file, capsys):
    file.write_text(file.read_text().replace("data: digits", "data: none.npz\nrecipe: digits"))
    assert main(["experiment", str(file), "--run", str(file.parent / "runs")]) == 2
    error = capsys.readouterr().err
    assert "none.npz does not exist" in error
    assert "b, seed 0" not in error


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("name", "networks"),
    [
        ("table6_digits", ["static", "alpha", "alpha_b", "residual"]),
        ("table4_digits", ["dgnet", "er", "ba", "ws"]),
    ],
)
def test_the_smallest_experiments_go_on_where_they_were(name, networks, capsys, tmp_path):
    """One epoch of three steps, one seed; then nothing is left to train."""
    arguments = ["experiment", str(FOLDER / f"{name}.yaml"), "--epochs", "1", "--seeds", "0"]
    arguments += ["--recipe-set", "batch_size=479"]
    arguments += ["--jobs", "2", "--run", str(tmp_path), "--json"]
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert "4 runs, 0 finished before" in captured.err
    first = json.loads(captured.out)
    assert [row["name"] for row in first["rows"]] == networks
    assert all(run["accuracy"] > 0 and run["step_ms"] > 0 for run in first["runs"])
    names = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert names == {f"results.{suffix}" for suffix in ("json", "csv", "md", "png", "svg")}
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert "4 runs, 4 finished before" in captured.err
    assert json.loads(captured.out) == first


@pytest.mark.slow
@pytest.mark.parametrize("name", ["figure4", "inference_rules"])
def test_smoke_of_the_other_digits_experiments(name, capsys, tmp_path):
    arguments = ["experiment", str(FOLDER / f"{name}_digits.yaml"), "--epochs", "1"]
    assert main([*arguments, "--seeds", "0", "--run", str(tmp_path), "--json"]) == 0
    rows = [row["name"] for row in json.loads(capsys.readouterr().out)["rows"]]
    assert len(rows) == {"figure4": 3, "inference_rules": 4}[name]


@pytest.mark.slow
def test_detection_is_compared_by_average_precision(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_coco(Path("data"), train=4, val=2)
    content = read_annotations(Path("data"), "val")
    write_annotations(Path("data"), "test", content)
    text = (FOLDER / "detection_bccd.yaml").read_text().replace("specs/", f"{FOLDER}/specs/")
    small = "recipe_set: [epochs=2, detection.min_size=64, detection.max_size=64]"
    text = text.replace("data: data/bccd", f"data: data\n{small}")
    Path("cells.yaml").write_text(text)

    assert main(["experiment", "cells.yaml", "--seeds", "0", "--json", "--run", "runs"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in found["rows"]] == ["static", "dgnet"]
    table = Path("runs/results.md").read_text()
    assert "| network | seeds | AP (%) |" in table
    assert "on the test images" in table
    measured = json.loads(next(Path("runs/dgnet").glob("*/eval-test.json")).read_text())
    assert found["runs"][1]["accuracy"] == measured["AP"]
    assert (measured["part"], "AP_by_class" in measured) == ("test", True)


def test_the_recipe_is_that_of_the_task(file):
    file.write_text(file.read_text() + "task: detection\n")
    with pytest.raises(SpecError, match="a has a recipe for classification"):
        read_experiment(file)


@pytest.mark.slow
def test_an_array_of_tasks_trains_what_the_experiment_collects(file, capsys, tmp_path, monkeypatch):
    """What docs/experiments.md has SLURM do, its variable set by hand."""
    monkeypatch.chdir(tmp_path)
    graphc = tmp_path / "bin" / "graphc"
    graphc.parent.mkdir()
    main_ = "import sys; from compiler.cli import main; sys.exit(main())"
    graphc.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{main_}' \"$@\"\n")
    graphc.chmod(0o755)
    monkeypatch.setenv("PATH", f"{graphc.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(FOLDER.parents[1]))
    arguments = ["experiment", str(file), "--epochs", "1", "--seeds", "0"]
    assert main([*arguments, "--commands"]) == 0
    Path("commands.txt").write_text(capsys.readouterr().out)
    documented = (FOLDER.parents[1] / "docs" / "experiments.md").read_text()
    wrapped = re.search(r"--wrap '(.*)'", documented)[1]
    for task in ("1", "2"):
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", task)
        subprocess.run(["bash", "-c", wrapped], check=True, stdout=subprocess.DEVNULL)
    assert main(arguments) == 0
    assert "2 runs, 2 finished before" in capsys.readouterr().err
