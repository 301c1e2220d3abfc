"""`graphc bench`, and behind `-m bench` the goals of docs/performance.md."""

from __future__ import annotations

import json
import os
import resource
import shlex
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import graphspec
from compiler import analyze, compile, count
from compiler.cli import main
from compiler.cli.bench import command as bench_command
from compiler.measure import close_nodes, living_macs, macs_of, with_products
from runtime.gating import pin_routes
from tests.bench.goals import GOALS, measure

SPECS = Path(__file__).with_name("specs")


def bench(capsys, *arguments):
    assert main(["bench", *map(str, arguments), "--rounds", "1", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_json_holds_ratios_and_both_networks(capsys, repository):
    tiny = repository / "examples/dgnet_tiny.yaml"
    result = bench(capsys, tiny, "--mode", "sparse", "--close", "1", "--against", "masked",
                   "--batch", "2")  # fmt: skip

    assert {"time", "cpu_time", "memory", "macs"} <= set(result["ratio"])
    assert result["ratio"]["time"] > 0
    assert 0 < result["ratio"]["memory"] < 1, "sparse inference holds less"
    assert result["measured"]["time_ms"] > 0
    assert result["machine"]["torch"] == torch.__version__


@pytest.mark.parametrize(
    "options", [["--train", "--against", "products"], ["--fold"], ["--channels-last"]]
)
def test_options_run(capsys, repository, options):
    result = bench(capsys, repository / "examples/dgnet_tiny.yaml", *options)

    assert ("ratio" in result) == ("--against" in options)


def test_the_text_shows_both_and_their_ratio(capsys, repository):
    tiny = str(repository / "examples/dgnet_tiny.yaml")
    assert main(["bench", tiny, "--against", tiny, "--rounds", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()

    assert [line.split()[0] for line in lines[1:]] == [tiny, tiny, "first"]


def test_networks_for_different_images_are_refused(capsys, repository):
    tiny, chain = (str(repository / f"examples/{n}.yaml") for n in ("dgnet_tiny", "chain_tiny"))
    assert main(["bench", tiny, "--against", chain]) == 2
    assert "takes images of" in capsys.readouterr().err


@pytest.fixture
def run(repository, tmp_path) -> Path:
    """A trained network whose node layer1.n1 is closed for all images."""
    spec = repository / "examples/experiments/specs/tiny_digits.yaml"
    options = ["--epochs", "1", "--recipe-set", "warmup_epochs=0", "--batch-size", "479"]
    assert main(["train", str(spec), *options, "--run", str(tmp_path / "run")]) == 0
    weights = load_file(tmp_path / "run/weights.safetensors")
    weights["layer1.threshold"][0] = 2.0
    save_file(weights, tmp_path / "run/weights.safetensors")
    return tmp_path / "run"


def test_a_run_is_timed_at_the_routes_it_has_learned(capsys, run):
    capsys.readouterr()
    skipping = bench(capsys, run, "--mode", "sparse", "--against", "masked", "--batch", "4")
    smaller = bench(capsys, run, "--against", "specialised", "--batch", "4")

    node = 9 * 6 * 6 * 8 * 8  # its convolution, for one image
    assert skipping["against_measured"]["macs"] - skipping["measured"]["macs"] >= 4 * node
    assert smaller["against_measured"]["macs"] == pytest.approx(
        skipping["measured"]["macs"], rel=0.01
    )


def test_what_cannot_be_timed_is_explained(capsys, repository, run):
    spec = str(repository / "examples/dgnet_tiny.yaml")
    for arguments, message in (
        ([spec, "--against", "specialised"], "is no run: only a trained network"),
        ([str(run.parent)], "is no run folder"),
        ([str(run), "--set", "seed=1"], "is trained as it is"),
        ([str(run), "--batch", "400"], "the test set has 360 images"),
    ):
        assert main(["bench", *arguments]) == 2
        assert message in " ".join(capsys.readouterr().err.split())


def test_products_compute_the_same(repository):
    for name in ("dgnet_tiny", "randwire_small"):
        spec = graphspec.load(repository / f"examples/{name}.yaml", ["input_shape=[3,32,32]"])
        model = compile(spec).eval()
        x = torch.randn(2, 3, 32, 32)
        with torch.no_grad():
            expected = model(x)
            torch.testing.assert_close(with_products(model)(x), expected, rtol=1e-4, atol=1e-4)


def test_living_macs_are_all_with_open_routes_and_those_of_the_ends_with_closed_ones(repository):
    spec = graphspec.load(repository / "examples/dgnet_tiny.yaml")
    graph, _ = analyze(spec)
    model = compile(spec).eval()
    x = torch.randn(2, 3, 32, 32)
    complexity = count(graph)
    blocks = sum(
        row.macs
        for row in complexity.rows
        if row.stage == "layer1" and row.node in ("n1", "n2", "n3")
    )
    pin_routes(model, {"layer1": torch.ones(5, 5).bool()})
    assert living_macs(graph, model, x) == 2 * complexity.macs
    close_nodes(model, 1.0, 2, seed=0)
    edges = complexity.rows
    output = sum(r.macs for r in edges if r.stage == "layer1" and r.node == "output")
    expected = 2 * (complexity.macs - blocks) - 2 * output * 3 // 4
    assert living_macs(graph, model, x) == expected


def test_macs_of_a_reference_are_those_of_our_count(repository):
    from torchvision.models import resnet18

    spec = graphspec.load(repository / "examples/resnet18.yaml")
    model = resnet18().eval()

    assert macs_of(model, torch.randn(1, 3, 224, 224)) == count(spec).macs


def seconds(*command):
    """CPU seconds of a process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True, env={**os.environ})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def stage_of(folder, nodes):
    path = folder / f"random_{nodes}.yaml"
    path.write_text(
        "version: 1\nname: large\nseed: 0\ninput_shape: [3, 32, 32]\n"
        "stem: {kind: conv_bn_relu, width: 8}\n"
        f"stages:\n  - {{name: layer1, depth: {nodes}, width: 8, block: separable_conv,\n"
        "     wiring: {kind: ws, k: 4, p: 0.75}, edge_weights: learned}\n"
        "head: {kind: pooled_linear, num_classes: 2}\n",
        encoding="utf-8",
    )
    return path


@pytest.mark.bench
def test_checking_a_thousand_nodes_takes_less_than_a_second(tmp_path):
    path = stage_of(tmp_path, 1000)
    call = "import sys; from compiler.cli import main; sys.exit(main(sys.argv[1:]))"
    times = [seconds(sys.executable, "-c", call, "check", path) for _ in range(5)]
    assert statistics.median(times) < 1


@pytest.mark.bench
def test_compiling_is_linear_in_the_number_of_nodes(tmp_path):
    import time

    def cpu(nodes):
        spec = graphspec.load(stage_of(tmp_path, nodes))
        times = []
        for _ in range(5):
            start = time.process_time()
            compile(spec, device="meta")
            times.append(time.process_time() - start)
        return statistics.median(times)

    assert cpu(2000) <= 2.3 * cpu(1000)


@pytest.mark.parametrize("name", GOALS)
def test_the_commands_of_goals_are_understood(repository, monkeypatch, name):
    monkeypatch.chdir(repository)
    for command in GOALS[name].commands:
        verb, *words = shlex.split(command)
        assert verb == "bench"
        options = bench_command.make_context("bench", words).params
        for spec in (options["spec"], options["against"]):
            assert spec.partition(":")[0] in (
                "torchvision",
                "products",
                "masked",
            ) or graphspec.load(spec, options["overrides"])


@pytest.mark.bench
@pytest.mark.parametrize("name", ["static_train", "dgnet", "stage3", "sparse_32_0.5"])
def test_goals_are_reached(repository, monkeypatch, name):
    """Those that are, on a quiet machine; docs/performance.md has all."""
    monkeypatch.chdir(repository)
    found = measure(GOALS[name], threads=1)

    assert found["figure"] <= found["goal"]
