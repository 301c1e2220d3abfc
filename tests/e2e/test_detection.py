"""`graphc train --task detection` and `graphc eval`, as a user runs them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from compiler import compile
from compiler.cli import main
from compiler.training.detector import freeze_batch_norms, load_detector
from compiler.training.job import Job
from compiler.training.recipes import dump_recipe, load_recipe, recipe_names
from compiler.training.runs import train
from graphspec import load
from runtime.training.engine import Execution
from runtime.training.errors import StorageError
from runtime.training.recipe import RecipeError
from tests.coco import read_annotations, write_annotations, write_coco

ROOT = Path(__file__).parents[2]
SPEC = """\
version: 1
name: small
input_shape: [3, 64, 64]
stem: {kind: conv_bn_relu, width: 8, stride: 2}
stages:
  - name: layer1
    depth: 2
    width: 8
    stride: 2
    block: conv_bn_relu
    input_node: conv_bn_relu
    wiring: complete
    edge_weights: routed
  - {name: layer2, depth: 1, width: 16, stride: 2, block: conv_bn_relu, wiring: chain}
head: {kind: pooled_linear, num_classes: 10}
"""
RECIPE = """\
epochs: 3
batch_size: 4
lr: 0.02
clip_norm: 10
horizontal_flip: true
detection:
  min_size: 64
  max_size: 64
  fpn_channels: 16
  head_width: 32
  anchor_scale: 4
  proposals: 40
  test_proposals: 20
  sampled_boxes: 16
"""
FILES = {
    "spec.resolved.yaml",
    "recipe.yaml",
    "run.json",
    "weights.safetensors",
    "metrics.jsonl",
    "metrics.csv",
    "graph.svg",
    "checkpoint",
    ".lock",
}
TRAIN = ("train", "small.yaml", "--task", "detection", "--data", "data", "--recipe", "tiny.yaml")
ALONE = ("--workers", "0", "--device", "cpu")

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(SPEC)
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    write_coco(tmp_path / "data")
    return tmp_path


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs graphc in this process; returns the exit code, stdout and stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        status = main(arguments)
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        assert "internal error" not in captured.err
        return status, captured.out, captured.err

    return run


def records(run: str) -> list[dict[str, float]]:
    return [json.loads(line) for line in Path(run, "metrics.jsonl").read_text().splitlines()]


def test_from_a_spec_to_boxes(call: Call) -> None:
    longer = ("--epochs", "8", "--recipe-set", "warmup_epochs=1")
    status, out, err = call(*TRAIN, *ALONE, *longer, "--run", "mine", "--json")

    outcome = json.loads(out)
    assert status == 0, err
    assert {path.name for path in Path("mine").iterdir()} == FILES
    history = records("mine")
    parts = ("loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg")
    for record in history:
        assert record["train_loss"] == pytest.approx(sum(record[part] for part in parts))
    assert history[-1]["train_loss"] < 0.8 * history[0]["train_loss"]
    assert Path("mine/metrics.csv").read_text().splitlines()[0] == ",".join(history[0])
    manifest = json.loads(Path("mine/run.json").read_text())
    assert (manifest["task"], manifest["classes"]) == ("detection", ["red", "blue"])
    assert manifest["AP50"] == outcome["AP50"] == history[-1]["AP50"]
    assert "AP" in call(*TRAIN, *ALONE, *longer, "--run", "mine")[1]

    status, out, _ = call("eval", "mine", *ALONE, "--json", "--pictures", "2")
    measured = json.loads(out)
    assert status == 0
    assert measured["AP"] == manifest["AP"]
    assert set(measured["AP_by_class"]) == {"red", "blue"}
    assert measured["modes"]["masked_consistent"] == manifest["AP"]
    assert len(measured["modes"]) == 5
    pictures = sorted(path.name for path in Path("mine/pictures").iterdir())
    assert pictures == ["val_val_0.png", "val_val_1.png"]
    assert "AP of blue" in call("eval", "mine", *ALONE)[1]

    detector = load_detector(Path("mine"))
    (result,) = detector([torch.rand(3, 50, 70)])
    assert set(result) == {"boxes", "labels", "scores"}
    status, _, err = call("export", "mine", "--to", "exported", "-o", "mine.pt2")
    assert status != 0
    assert "holds a detector" in err


class Stop(Exception):
    pass


class Stopper:
    """An observer that ends training at a step, if it is told to."""

    def __init__(self, at: int | None = None) -> None:
        self.at, self.resumed_at, self.said = at, None, ""

    def say(self, text: str) -> None:
        self.said += text

    def on_resume(self, step: int, damaged: list[Path]) -> None:
        self.resumed_at = step

    def on_start(self, step: int, total_steps: int, steps_per_epoch: int) -> None: ...

    def on_step(self, step: int, loss: float) -> None:
        if step == self.at:
            raise Stop

    def on_epoch(self, record: dict[str, float], history: list[dict[str, float]]) -> None: ...


def run(name: str, observer: Stopper, job: Job) -> dict[str, Any]:
    train(job, Path(name), observer, execution=Execution(checkpoint_seconds=0), device="cpu")
    return {"history": records(name), "weights": load_file(f"{name}/weights.safetensors")}


def test_a_stopped_run_ends_with_the_same_bits() -> None:
    job = Job(spec=load("small.yaml"), recipe=load_recipe("tiny.yaml"), data="data")
    whole = run("whole", Stopper(), job)

    for step in (2, 5):
        with pytest.raises(Stop):
            run("stopped", Stopper(step), job)
    last = Stopper()
    resumed = run("stopped", last, job)

    assert last.resumed_at == 4
    for name, tensor in whole["weights"].items():
        assert torch.equal(tensor, resumed["weights"][name]), name
    for record in (*whole["history"], *resumed["history"]):
        del record["seconds"]
    assert whole["history"] == resumed["history"]


@pytest.mark.slow
def test_a_killed_command_goes_on_to_the_same_weights(call: Call) -> None:
    call(*TRAIN, "--run", "whole", *ALONE)
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", "import compiler.cli as c; exit(c.main())"),
            *(*TRAIN, "--run", "killed", "--checkpoint-seconds", "0", *ALONE),
        ],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not Path("killed/metrics.csv").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not Path("killed/weights.safetensors").exists()
    status, _, err = call(*TRAIN, "--run", "killed", *ALONE)

    assert (status, "going on from step" in err) == (0, True)
    whole, killed = (load_file(f"{run}/weights.safetensors") for run in ("whole", "killed"))
    assert all(torch.equal(whole[name], killed[name]) for name in whole)


def test_initial_weights_and_frozen_norms() -> None:
    spec = load("small.yaml")
    network = compile(spec)
    for norm in (m for m in network.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.uniform_(norm.running_mean)
        nn.init.uniform_(norm.weight, 0.5, 1)
    save_file(network.state_dict(), "start.safetensors")
    recipe = load_recipe("tiny.yaml", ["epochs=1", "detection.frozen_norm=true"])
    job = Job(spec=spec, recipe=recipe, data="data", initial_weights=Path("start.safetensors"))
    observer = Stopper()
    trained = run("mine", observer, job)["weights"]

    assert observer.said.startswith("copied")
    kept = {name: value for name, value in trained.items() if ".bn." in name}
    for name, value in kept.items():
        start = network.state_dict()[name.removeprefix("backbone.body.")]
        assert torch.equal(value, start), name
    assert len(kept) == 4 * sum(isinstance(m, nn.BatchNorm2d) for m in network.modules())
    conv = "layer1.n1.conv.weight"
    assert not torch.equal(trained[f"backbone.body.{conv}"], network.state_dict()[conv])
    others = (Path("start.safetensors"), None)
    assert (
        len(
            {Job(spec=spec, recipe=recipe, data="data", initial_weights=w).identity for w in others}
        )
        == 2
    )


def test_frozen_norms_compute_what_batch_norms_do_at_inference() -> None:
    network = compile(load("small.yaml"))
    x = torch.rand(4, 3, 64, 64)
    network(x)
    expected = network.eval()(x)
    freeze_batch_norms(network)
    torch.testing.assert_close(network(x), expected)
    assert not [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--recipe", "digits"), "no section `detection`: the sizes of a detector; give --recipe"),
        (("--recipe-set", "detection.minsize=3"), "did you mean 'min_size'?"),
        (("--recipe-set", "detection.min_size=99"), "64 is less than min_size, 99"),
        (("--recipe-set", "detection.min_size=0"), "detection.min_size: is not above 0"),
        (("--recipe-set", "label_smoothing=0.1"), "label_smoothing: is for classification"),
        (("--recipe-set", "lr_drops=[2, 3]"), "[2, 3] are not growing epochs within the 3"),
        (("--recipe-set", "size.min=3"), "the recipe has no section 'size'"),
        (("--recipe-set", "detection.frozen_norm=true"), "frozen_norm keeps random"),
        (("--task", "classification"), "the recipe is for detection; give --task detection"),
        (("--goal-accuracy", "0.5"), "detection has an average precision, no accuracy"),
        (("--torch-compile",), "not for --torch-compile"),
        (("--download",), "there is no detection data to download"),
        (("--data", "small.yaml"), "small.yaml is no folder; detection trains on a folder with"),
        (("--data", "."), "has no annotations/instances_train.json"),
        (("--set", "input_shape=[4,64,64]"), "images have 1 or 3 channels, not 4"),
        (("--batch-size", "9"), "batch size 9 is more than the 8 training samples"),
        (("--init-weights", "none.pth"), "cannot read none.pth: No such file"),
        (("--init-weights", "tiny.yaml"), "holds no tensors that can be read"),
    ],
)
def test_what_cannot_be_trained_is_explained(
    call: Call, arguments: tuple[str, ...], message: str
) -> None:
    status, out, err = call(*TRAIN, *ALONE, *arguments)

    assert (status, out) == (2, "")
    assert message in " ".join(err.split())


def test_an_image_that_cannot_be_read_stops_the_run(call: Call) -> None:
    Path("data/images/train_3.png").write_bytes(b"not an image")
    status, _, err = call(*TRAIN, *ALONE)
    assert status == 2
    assert "train_3.png" in err
    assert "repair or remove the file" in err


def test_other_data_must_have_the_same_classes(call: Call) -> None:
    call(*TRAIN, *ALONE, "--epochs", "1", "--run", "mine")
    write_coco(Path("other"))
    for part in ("train", "val"):
        content = read_annotations(Path("other"), part)
        content["categories"][0]["name"] = "green"
        write_annotations(Path("other"), part, content)

    status, _, err = call("eval", "mine", *ALONE, "--data", "other")
    assert status == 2
    assert "the detector knows red, blue, but other has red, green" in " ".join(err.split())
    assert "instances_test.json" in call("eval", "mine", *ALONE, "--part", "test")[2]


def test_a_run_of_a_classifier_holds_no_detector(call: Call) -> None:
    digits = Path("digits")
    digits.mkdir()
    (digits / "spec.resolved.yaml").write_text(SPEC)
    (digits / "recipe.yaml").write_text(dump_recipe(load_recipe("digits")))
    manifest = {"identity": "1", "status": "complete", "seed": 0, "normalization": {}}
    manifest["data"] = {"name": "digits", "folder": "data"}
    (digits / "run.json").write_text(json.dumps(manifest))

    with pytest.raises(StorageError, match="holds no detector"):
        load_detector(Path("digits"))
    assert "--part test: only data for detection" in call("eval", "digits", "--part", "test")[2]


def test_the_1x_schedule() -> None:
    recipe = load_recipe("coco_1x")
    assert (recipe.epochs, recipe.batch_size, recipe.lr_drops) == (12, 16, (8, 11))
    assert recipe.detection is not None
    assert (recipe.detection.min_size, recipe.detection.max_size) == (800, 1333)
    assert {"bccd", "coco_1x"} <= set(recipe_names())


def test_a_recipe_changes_one_entry_of_a_section() -> None:
    Path("mine.yaml").write_text("extends: coco_1x\ndetection: {min_size: 640}\n")
    mine, parent = load_recipe("mine.yaml").detection, load_recipe("coco_1x").detection
    assert mine is not None
    assert parent is not None
    assert (mine.min_size, mine.max_size, mine.frozen_norm) == (640, 1333, parent.frozen_norm)
    assert load_recipe("coco_1x", ["detection.min_size=640"]).detection == mine
    with pytest.raises(RecipeError, match=r"detection.min_size: 'small' is not a whole number"):
        load_recipe("coco_1x", ["detection.min_size=small"])


def test_a_wrong_entry_of_a_section_is_located(call: Call) -> None:
    Path("mine.yaml").write_text("extends: tiny.yaml\ndetection:\n  min_size: small\n")
    status, _, err = call(*TRAIN[:-1], "mine.yaml")
    assert status == 1
    assert "detection.min_size: 'small' is not a whole number" in err
    assert "--> mine.yaml:3:13" in err
