"""`graphc train` and `graphc eval`, as a user runs them."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file

from compiler import compile
from compiler.cli import main
from compiler.training.recipes import default_recipe, dump_recipe, load_recipe, recipe_names
from graphspec import SpecError, load

EXAMPLES = Path(__file__).parents[2] / "examples"
SPEC = """\
version: 1
name: small
input_shape: [1, 8, 8]
stem: {kind: conv_bn_relu, width: 8}
stages:
  - name: layer1
    depth: 2
    width: 8
    stride: 2
    block: conv_bn_relu
    input_node: conv_bn_relu
    wiring: complete
    edge_weights: routed
head: {kind: pooled_linear, num_classes: 10}
"""
FAST = ("--epochs", "2", "--recipe-set", "warmup_epochs=0")
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

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "small.yaml"
    path.write_text(SPEC)
    return path


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


def test_a_run_folder_is_complete_and_opens_without_graphc(call: Call) -> None:
    status, out, _ = call("train", "small.yaml", *FAST, "--json")

    outcome = json.loads(out)
    folder = Path(outcome["run"])
    assert status == 0
    assert outcome["trained"] is True
    assert folder.parent == Path("runs")
    assert folder.name.startswith("small-")
    assert {path.name for path in folder.iterdir()} == FILES
    manifest = json.loads((folder / "run.json").read_text())
    assert manifest["status"] == "complete"
    assert manifest["accuracy"] == outcome["accuracy"]
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == [1, 2]
    assert records[-1]["test_accuracy"] == outcome["accuracy"]
    rows = (folder / "metrics.csv").read_text().splitlines()
    assert rows[0].split(",") == list(records[0])
    assert rows[1].split(",") == [str(value) for value in records[0].values()]
    with safe_open(folder / "weights.safetensors", "pt") as file:
        assert file.metadata()["spec_hash"] == manifest["spec_hash"]
        assert file.metadata()["weights"] == "last"
    assert yaml.safe_load((folder / "recipe.yaml").read_text())["epochs"] == 2
    assert (folder / "graph.svg").read_text().startswith(("<?xml", "<svg"))


def test_the_weights_of_a_run_are_those_that_were_tested(call: Call) -> None:
    from runtime.training.evaluation import evaluate
    from runtime.training.processes import join
    from runtime.training.sources import digits

    _, out, _ = call("train", "small.yaml", *FAST, "--json")
    outcome = json.loads(out)
    folder = Path(outcome["run"])

    model = compile(folder / "spec.resolved.yaml")
    model.load_state_dict(load_file(folder / "weights.safetensors"))
    alone = join("cpu")

    tested = evaluate(model, digits().testing(100, alone.device, 0), alone)
    assert tested["accuracy"] == outcome["accuracy"]


def test_the_same_command_says_that_the_run_is_complete(call: Call) -> None:
    _, first, _ = call("train", "small.yaml", *FAST, "--json")
    before = {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*.safetensors")}
    status, second, _ = call("train", "small.yaml", *FAST, "--json")

    assert status == 0
    assert json.loads(second) == json.loads(first) | {"trained": False}
    assert before == {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*.safetensors")}
    _, text, _ = call("train", "small.yaml", *FAST)
    assert "was complete already: test accuracy" in text


def test_another_seed_recipe_or_spec_is_another_run(call: Call) -> None:
    fast = ("--epochs", "1", "--recipe-set", "warmup_epochs=0", "--json")
    changes = [(), ("--seed", "1"), ("--lr", "0.05"), ("--set", "stages.layer1.width=4")]
    folders = {json.loads(call("train", "small.yaml", *fast, *more)[1])["run"] for more in changes}
    assert len(folders) == 4


def test_a_folder_that_holds_another_run_is_left_alone(call: Call) -> None:
    call("train", "small.yaml", *FAST, "--run", "mine")

    status, out, err = call("train", "small.yaml", *FAST, "--run", "mine", "--seed", "1")

    assert (status, out) == (2, "")
    assert "mine holds the run of another spec, recipe, seed or data" in err


def graphc(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", "import compiler.cli as c; exit(c.main())", *arguments],
        env=os.environ | {"PYTHONPATH": str(EXAMPLES.parent), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_killed_command_goes_on_to_the_same_weights(call: Call) -> None:
    torch.set_num_threads(1)
    _, out, _ = call("train", "small.yaml", *FAST, "--run", "whole", "--json")

    always = ("--checkpoint-seconds", "0")
    process = graphc("train", "small.yaml", *FAST, "--run", "killed", *always)
    deadline = time.monotonic() + 120
    while not Path("killed/metrics.csv").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not Path("killed/weights.safetensors").exists()
    status, resumed, err = call("train", "small.yaml", *FAST, "--run", "killed", "--json")

    assert status == 0
    assert int(re.search(r"going on from step (\d+)", err)[1]) >= 21
    assert json.loads(resumed)["accuracy"] == json.loads(out)["accuracy"]
    whole, killed = (load_file(f"{run}/weights.safetensors") for run in ("whole", "killed"))
    assert all(torch.equal(whole[name], killed[name]) for name in whole)


def test_tensorboard_shows_each_epoch_of_a_killed_run_once(call: Call) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options = (*FAST, "--run", "killed", "--tensorboard")
    process = graphc("train", "small.yaml", *options, "--checkpoint-seconds", "1000")
    deadline = time.monotonic() + 120
    while not Path("killed/metrics.csv").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    time.sleep(1)  # readers take event files in the order of their names: whole seconds, then pids
    status, _, _ = call("train", "small.yaml", *options)

    assert status == 0
    assert len(list(Path("killed/tensorboard").iterdir())) == 2
    lines = Path("killed/metrics.jsonl").read_text().splitlines()
    events = EventAccumulator("killed/tensorboard").Reload()
    for name in ("train_loss", "test_accuracy", "lr"):
        found = [(event.step, event.value) for event in events.Scalars(name)]
        records = [json.loads(line) for line in lines]
        expected = [(record["step"], pytest.approx(record[name])) for record in records]
        assert found == expected


def test_tensorboard_that_is_not_installed_is_named(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    status, _, err = call("train", "small.yaml", *FAST, "--tensorboard")
    assert status == 2
    assert "pip install 'graphc-nn[tensorboard]'" in err


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("--set", "input_shape=[1,9,9]"), 2, "nothing says what to train small on; give --data"),
        (("--data", "digit"), 2, "no data 'digit'; did you mean 'digits'?"),
        (("--data", "digit", "--recipe", "cifar"), 2, "did you mean 'digits'?"),
        (("--data", "images.npz"), 2, "no recipe is made for images.npz; give --recipe"),
        (("--data", "no.npz", "--recipe", "cifar"), 2, "no.npz does not exist"),
        (("--data", "fashion_mnist"), 2, "fashion_mnist is not in"),
        (("--recipe", "digit"), 2, "no recipe 'digit'; did you mean 'digits'?"),
        (("--recipe-set", "lr"), 2, "an override reads key=value"),
        (("--recipe-set", "lr=fast"), 2, "lr: 'fast' is not a number"),
        (("--recipe-set", "rate=1"), 2, "rate: unknown name 'rate'"),
        (("--recipe-set", "resized_crop=true"), 2, "crop_padding: crops a second time"),
        (("--batch-size", "5000"), 2, "batch size 5000 is more than the 1437 training samples"),
        (("--batch-size", "63", "--accumulate", "2"), 2, "a batch of 63 does not split"),
        (("--device", "tpu9"), 2, "cannot use the device 'tpu9'"),
        (("--set", "stages.layer1.depth=0"), 1, "stages[0].depth"),
        (
            ("--set", "head.num_classes=7", "--data", "digits"),
            1,
            "head.num_classes: the network tells 7 classes apart, but digits has 10",
        ),
        (
            ("--set", "input_shape=[1,9,9]", "--data", "digits"),
            1,
            "input_shape: the network takes [1, 9, 9], but digits has images of [1, 8, 8]",
        ),
    ],
)
def test_what_cannot_be_trained_is_explained(
    call: Call, arguments: tuple[str, ...], status: int, message: str
) -> None:
    found, out, err = call("train", "small.yaml", *arguments)

    assert (found, out) == (status, "")
    assert message in " ".join(err.split())
    assert not list(Path().glob("runs/*/weights.safetensors"))


def test_data_that_does_not_fit_is_located_in_the_spec(call: Call) -> None:
    Path("ten.yaml").write_text(SPEC.replace("num_classes: 10", "num_classes: 7"))
    status, _, err = call("train", "ten.yaml", "--data", "digits")

    assert status == 1
    assert "--> ten.yaml:14:" in err
    assert "help: use --set head.num_classes=10" in err


def test_a_wrong_recipe_file_is_located(call: Call) -> None:
    Path("mine.yaml").write_text("extends: digits\nepochs: many\n")
    status, _, err = call("train", "small.yaml", "--recipe", "mine.yaml")

    assert status == 1
    assert "error[recipe]: epochs: 'many' is not a whole number" in err
    assert "--> mine.yaml:2:9" in err


def test_a_missed_goal_exits_with_1(call: Call) -> None:
    status, out, err = call("train", "small.yaml", *FAST, "--goal-accuracy", "1.0", "--json")

    assert status == 1
    assert "accuracy" in json.loads(out)
    assert "goal missed: test accuracy" in err
    run = json.loads(out)["run"]
    assert call("eval", run, "--goal-accuracy", "1.0")[0] == 1
    assert call("eval", run, "--goal-accuracy", "0.0")[0] == 0


def test_a_run_that_diverges_exits_with_1_and_names_the_place(call: Call) -> None:
    status, _, err = call("train", "small.yaml", *FAST, "--lr", "1e6")

    assert status == 1
    assert "is the first thing that is not finite" in err
    assert "epoch 1, step" in err


def test_eval_reports_every_inference_mode(call: Call) -> None:
    _, out, _ = call("train", "small.yaml", *FAST, "--json")
    run = json.loads(out)

    status, text, _ = call("eval", run["run"], "--json")
    result = json.loads(text)

    assert status == 0
    assert result["run"] == run["run"]
    assert result["accuracy"] == run["accuracy"]
    assert result["modes"]["masked_consistent"] == run["accuracy"]
    assert set(result["modes"]) == {
        "soft",
        "masked_consistent",
        "masked_literal",
        "masked_consistent_reestimated",
        "masked_literal_reestimated",
    }
    status, text, _ = call("eval", run["run"])
    assert status == 0
    assert len(text.splitlines()) == 6


def test_eval_of_a_static_network_has_one_accuracy(call: Call) -> None:
    fixed = ("--set", "stages.layer1.edge_weights=fixed")
    _, out, _ = call("train", "small.yaml", *FAST, *fixed, "--json")
    _, text, _ = call("eval", json.loads(out)["run"], "--json")

    assert "modes" not in json.loads(text)


def test_eval_of_what_is_no_finished_run(call: Call) -> None:
    Path("empty").mkdir()
    status, _, err = call("eval", "empty")
    assert status == 2
    assert "empty is no run folder: it has no run.json" in err
    assert call("eval", "missing")[0] == 2
    _, out, _ = call("train", "small.yaml", *FAST, "--json")
    folder = Path(json.loads(out)["run"])
    (folder / "weights.safetensors").write_bytes(b"broken")
    status, _, err = call("eval", str(folder))
    assert status == 2
    assert "cannot read the weights" in err


def test_the_literal_rule_is_kept_with_statistics_that_fit_it(call: Call) -> None:
    literal = ("--set", "stages.layer1.edge_weights={kind: routed, inference: literal}")
    _, out, _ = call("train", "small.yaml", "--epochs", "6", *literal, "--json")
    outcome = json.loads(out)
    _, text, _ = call("eval", outcome["run"], "--json")
    result = json.loads(text)

    assert result["accuracy"] == outcome["accuracy"] == result["modes"]["masked_literal"]
    assert result["accuracy"] > 0.5


def test_a_static_network_trains_on_an_npz_file(call: Call) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(64) % 2
    images = (rng.integers(0, 100, (64, 8, 8, 3)) + 100 * labels[:, None, None, None]).astype(
        np.uint8
    )
    np.savez("arrays.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    changes = ("stages.layer1.wiring=chain", "stages.layer1.edge_weights=fixed")
    shape = ("input_shape=[3,8,8]", "head.num_classes=2")
    settings = [part for change in (*changes, *shape) for part in ("--set", change)]

    command = (
        "train", "small.yaml", *settings, "--data", "arrays.npz", "--recipe", "digits",
        "--epochs", "8", "--batch-size", "16", "--json",
    )  # fmt: skip
    status, out, _ = call(*command)

    assert status == 0
    assert json.loads(out)["accuracy"] == 1.0

    np.savez("arrays.npz", x_train=images, y_train=1 - labels, x_test=images, y_test=labels)
    status, _, err = call(*command)

    assert status == 2
    assert "holds the run of another spec, recipe, seed or data" in err


@pytest.mark.parametrize("switch", ["--amp=bf16", "--channels-last", "--accumulate=2"])
def test_switches_train(call: Call, switch: str) -> None:
    ema = ("--recipe-set", "ema_decay=0.9", "--recipe-set", "drop_edge=0.1")
    status, out, _ = call("train", "small.yaml", "--epochs", "4", *ema, switch, "--json")

    assert status == 0
    assert json.loads(out)["accuracy"] > 0.3


def test_a_run_leaves_as_source_with_its_weights(call: Call) -> None:
    call("train", "small.yaml", *FAST, "--run", "run")
    status, _, err = call("compile", "run", "--emit", "source", "-o", "left")

    assert status == 0
    assert "note: trained on (values as the data have them - mean) / std, mean [0.305383]" in err
    ours, left = load_file("run/weights.safetensors"), load_file("left/weights.safetensors")
    assert ours.keys() == left.keys()
    assert all(torch.equal(ours[name], left[name]) for name in ours)
    status, _, err = call("compile", "run", "--set", "seed=1", "-o", "left")
    assert status == 2
    assert "--set changes a SPEC" in err


def test_two_commands_do_not_train_in_one_folder(call: Call) -> None:
    import fcntl

    Path("mine").mkdir()
    with Path("mine/.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        status, _, err = call("train", "small.yaml", "--run", "mine")

    assert status == 2
    assert "another process is training in mine" in err


@pytest.mark.parametrize("name", recipe_names())
def test_a_built_in_recipe_survives_being_written(name: str) -> None:
    recipe = load_recipe(name)
    Path("recipe.yaml").write_text(dump_recipe(recipe))
    assert load_recipe("recipe.yaml") == recipe


def test_recipes_of_the_paper_have_its_values() -> None:
    """DG-Net, appendix 6.1."""
    shared = {"momentum": 0.9, "batch_size": 1024, "warmup_epochs": 5.0, "label_smoothing": 0.1}
    expected = {
        "mobilenet": {"epochs": 200, "lr": 0.4, "weight_decay": 4e-5},
        "resnet": {"epochs": 100, "lr": 0.4, "weight_decay": 1e-4},
        "regnet": {"epochs": 100, "lr": 0.8, "weight_decay": 5e-5},
    }
    for name, values in expected.items():
        assert (shared | values).items() <= load_recipe(name).as_mapping().items()


def test_data_sets_have_their_recipe() -> None:
    assert default_recipe("digits") == "digits"
    assert default_recipe("cifar100") == "cifar"
    assert default_recipe("fashion_mnist") == "fashion_mnist"
    assert default_recipe("imagenet") is None


def test_recipes_that_extend_in_a_circle_are_refused() -> None:
    Path("a.yaml").write_text("extends: b.yaml\n")
    Path("b.yaml").write_text("extends: a.yaml\n")
    with pytest.raises(SpecError, match=r"a\.yaml -> b\.yaml -> a\.yaml"):
        load_recipe("a.yaml")


def test_training_does_not_change_the_spec_that_a_run_stands_for(call: Call) -> None:
    _, out, _ = call("train", "small.yaml", *FAST, "--json")
    folder = Path(json.loads(out)["run"])
    status, again, _ = call("train", str(folder / "spec.resolved.yaml"), *FAST, "--json")
    assert status == 0
    assert json.loads(again)["run"] == json.loads(out)["run"]
    assert load(folder / "spec.resolved.yaml").name == "small"


FULL_DISK = """
mkdir run && mount -t tmpfs -o size=88k none run || exit 1
echo tmpfs is there
{graphc} || echo "exit $?"
ls run/checkpoint
mount -o remount,size=10m run
{graphc}
"""


@pytest.mark.slow
def test_a_run_on_a_full_disk_goes_on_once_there_is_room(call: Call) -> None:
    arguments = ("train", "small.yaml", *FAST, "--run", "run", "--checkpoint-seconds", "0")
    command = [sys.executable, "-c", "'import compiler.cli as c; exit(c.main())'", *arguments]
    script = FULL_DISK.format(graphc=" ".join(command))
    finished = subprocess.run(
        [*"unshare --user --map-root-user --mount sh -c".split(), script],
        env=os.environ | {"PYTHONPATH": str(EXAMPLES.parent), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if "tmpfs is there" not in finished.stdout:
        pytest.skip(f"no tmpfs of our own here: {finished.stderr.splitlines()[-1]}")
    _, whole, _ = call("train", "small.yaml", *FAST, "--run", "whole")

    lines = finished.stdout.splitlines()
    assert lines[1] == "exit 2"
    assert re.search(
        r"cannot write run/checkpoint/step-\d+\.pt .*the disk is full", finished.stderr
    )
    assert f"last good checkpoint: run/checkpoint/{lines[-2]}" in finished.stderr
    assert f"going on from step {int(lines[-2][5:14])}" in finished.stderr
    assert whole.split("accuracy")[1].split(",")[0] == lines[-1].split("accuracy")[1].split(",")[0]


@pytest.mark.slow
def test_torchrun_trains_with_two_processes(call: Call) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    script = Path("graphc.py")
    script.write_text("import compiler.cli as c\nexit(c.main())\n")
    arguments = (
        "train",
        "small.yaml",
        "--epochs",
        "6",
        "--device",
        "cpu",
        "--run-folder",
        "two",
        "--json",
        "--recipe-set",
        "drop_edge=0.5",  # every parameter still has a gradient, which DDP waits for
    )
    finished = subprocess.run(
        [*command, str(script), *arguments],
        env=os.environ | {"PYTHONPATH": str(EXAMPLES.parent)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )

    outcome = json.loads(finished.stdout)
    assert outcome["accuracy"] > 0.5
    assert json.loads(Path("two/run.json").read_text())["processes"] == 2
    _, text, _ = call("eval", "two", "--json")
    assert json.loads(text)["accuracy"] == outcome["accuracy"]


@pytest.mark.slow
def test_torchrun_of_two_hosts_trains_one_network(call: Call) -> None:
    """Both launchers run here; on a cluster `srun` starts one a host."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    launcher += ["--rdzv-backend=c10d", f"--rdzv-endpoint=localhost:{port}", "--rdzv-id=1"]
    script = Path("graphc.py")
    script.write_text("import compiler.cli as c\nexit(c.main())\n")
    arguments = ("train", "small.yaml", *FAST, "--device", "cpu", "--run-folder", "two", "--json")
    hosts = [
        subprocess.Popen(
            [*launcher, str(script), *arguments],
            env=os.environ | {"PYTHONPATH": str(EXAMPLES.parent), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    texts = [host.communicate()[0] for host in hosts]

    assert [host.returncode for host in hosts] == [0, 0]
    outcome = json.loads("".join(texts))
    assert json.loads(Path("two/run.json").read_text())["processes"] == 2
    _, text, _ = call("eval", "two", "--json")
    assert json.loads(text)["accuracy"] == outcome["accuracy"]


@pytest.mark.slow
def test_the_first_command_of_the_readme_reaches_its_accuracy(call: Call) -> None:
    status, out, _ = call("train", str(EXAMPLES / "dgnet_digits.yaml"), "--json")

    assert status == 0
    assert json.loads(out)["accuracy"] >= 0.97
