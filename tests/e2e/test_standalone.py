"""Emitted networks run where only torch is, compute the same, train, and read like clean code."""

from __future__ import annotations

import ast
import hashlib
import json
import subprocess
import sys
from builtins import compile as compile_python
from pathlib import Path
from typing import Any

import pytest
import torch

import graphspec
from compiler import analyze, compile
from compiler.backends import BACKENDS
from compiler.cli import main
from runtime.gating import gates, inference
from runtime.kernels import cpu

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("*.yaml"))
SMALL = ["chain_tiny", "dense_tiny", "dgnet_tiny", "hand_drawn"]
SIZE = 64
"""Images are at most this large: what is compared does not depend on it."""


def emit(name: str, folder: Path, dtype: torch.dtype = torch.float64) -> None:
    """Writes an example's source, and what its compiled module computes, into `folder`.

    Without the kernels, which emitted source has not, both sides do the same operations in the
    same order, so that float32 agrees as closely as float64, where convolutions are ten times
    slower.
    """
    spec = graphspec.load(ROOT / "examples" / f"{name}.yaml")
    graph, _ = analyze(spec)
    torch.manual_seed(0)
    model = compile(spec)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith("threshold"):  # some edges are closed
                parameter.copy_(torch.rand_like(parameter) * 0.2 + 0.85)
    source, _ = BACKENDS["source"]().emit(spec, graph, model, folder)
    load = [n for n in ast.parse(source.read_text()).body if isinstance(n, ast.FunctionDef)][-1]
    model.to(dtype)
    channels, height, width = spec.input_shape
    x = torch.randn(2, channels, min(height, SIZE), min(width, SIZE), dtype=dtype)
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    modes = ["soft", "masked"] if any(True for _ in gates(model)) else ["masked"]
    runs = {}
    for mode in ["train", *modes]:
        model.load_state_dict(state)
        model.train(mode == "train")
        torch.manual_seed(5)
        with inference(model, mode="masked" if mode == "train" else mode):
            outputs = model(x)
        grads = torch.autograd.grad(
            outputs.square().sum(), list(model.parameters()), materialize_grads=True
        )
        runs[mode] = {"outputs": outputs.detach(), "grads": list(grads)}
    expected = {"class": ast.unparse(load.returns), "state": state, "x": x, "runs": runs}
    torch.save(expected, folder / "expected.pt")


def run_emitted(*folders: Path) -> dict[str, list[str]]:
    script = Path(__file__).with_name("run_emitted.py")
    done = subprocess.run(
        [sys.executable, "-I", script, *folders],
        cwd=folders[0],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["imported"] == []
    return result["faults"]


def lint(folder: Path) -> str:
    """What ruff and pyright find in all files of a folder."""
    (folder / "pyrightconfig.json").write_text('{"typeCheckingMode": "basic"}')
    config = str(ROOT / "pyproject.toml")
    found = ""
    for arguments in (
        ["ruff", "check", "--isolated", "--output-format", "concise", folder],
        ["ruff", "check", "--config", config, "--output-format", "concise", folder],
        ["ruff", "format", "--config", config, "--diff", folder],
        ["pyright", "--pythonpath", sys.executable, "-p", folder],
    ):
        done = subprocess.run(
            [sys.executable, "-m", *arguments], capture_output=True, text=True, check=False
        )
        found += done.stdout + done.stderr if done.returncode else ""
    return found


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("emitted")
    for name in SMALL:
        emit(name, folder / name)
    return folder


def test_small_examples_run_with_torch_alone(small):
    assert run_emitted(*(small / name for name in SMALL)) == {
        str(small / name): [] for name in SMALL
    }


def test_small_examples_read_like_clean_code(small):
    assert lint(small) == ""


def test_weights_beside_the_source_load(small):
    path = small / "hand_drawn" / "network.py"
    network: dict[str, Any] = {"__name__": "network", "__file__": str(path)}
    exec(compile_python(path.read_text(), str(path), "exec"), network)
    expected = torch.load(path.with_name("expected.pt"), weights_only=True)["state"]

    for name, tensor in network["load"]().double().state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_compile_emits_source(tmp_path, capsys):
    spec = str(ROOT / "examples" / "hand_drawn.yaml")
    for folder in ("first", "second"):
        assert main(["compile", spec, "--emit", "source", "-o", str(tmp_path / folder)]) == 0
    manifest = json.loads((tmp_path / "first" / "manifest.json").read_text())

    assert str(tmp_path / "first" / "network.py") in capsys.readouterr().out.splitlines()
    for name in ("network.py", "weights.safetensors"):
        content = (tmp_path / "first" / name).read_bytes()
        assert content == (tmp_path / "second" / name).read_bytes()
        assert manifest["files"][name] == hashlib.sha256(content).hexdigest()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in EXAMPLES if name not in SMALL])
def test_example_runs_with_torch_alone(name, tmp_path, monkeypatch):
    monkeypatch.setattr(cpu, "library", lambda: None)
    emit(name, tmp_path / name, torch.float32)

    assert run_emitted(tmp_path / name) == {str(tmp_path / name): []}


@pytest.mark.slow
def test_examples_read_like_clean_code(tmp_path):
    for name in EXAMPLES:
        spec = graphspec.load(ROOT / "examples" / f"{name}.yaml")
        graph, _ = analyze(spec)
        BACKENDS["source"]().emit(spec, graph, compile(spec, device="cpu"), tmp_path / name)
        (tmp_path / name / "weights.safetensors").unlink()

    assert lint(tmp_path) == ""
