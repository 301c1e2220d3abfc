"""`examples/plugin` installed beside graphc, which knows nothing of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLUGIN = ROOT / "examples" / "plugin"
# `uv run` says where it is; it need not be on the path.
UV = os.environ.get("UV") or shutil.which("uv")
GRAPHC = "import sys; from compiler.cli import main; sys.exit(main())"


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    if UV is None:
        pytest.skip("uv is not installed, which installs the plug-in")
    folder = tmp_path_factory.mktemp("plugin")
    # Building leaves files beside the sources.
    shutil.copytree(PLUGIN, folder / "source")
    command = [UV, "pip", "install", "--quiet", "--no-deps", "--target", str(folder / "site")]
    arguments = ["--python", sys.executable, str(folder / "source")]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "site"


def run_python(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(site), "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_check_knows_the_plugin_without_torch(installed):
    code = """
import sys
from compiler.cli import main
status = main(["check", "examples/plugin/shifted.yaml"])
assert "torch" not in sys.modules
sys.exit(status)
"""
    done = run_python(installed, "-W", "error", "-c", code)
    assert done.returncode == 0, done.stderr
    assert "ok, 2 stages" in done.stdout
    wrong = ["--set", "stages.layer1.block.distanse=2", "--set", "stages.layer2.wiring.span=1"]
    done = run_python(installed, "-c", GRAPHC, "check", "examples/plugin/shifted.yaml", *wrong)
    assert done.returncode == 1
    assert "block 'shift_conv' has no parameter 'distanse'" in done.stderr
    assert "stages[1].wiring.span" in done.stderr


def test_a_network_of_the_plugin_trains_a_step(installed):
    code = """
import torch
from compiler import analyze, compile
from compiler.passes import PIPELINE
from graphspec import SpecError, load
torch.set_num_threads(1)
spec = load("examples/plugin/shifted.yaml")
model = compile(spec)
kinds = {type(module).__name__ for module in model.modules()}
assert "ShiftConv" in kinds, kinds
graph, _ = analyze(spec)
edges = [(edge.source, edge.target) for edge in graph.stages[1].edges]
assert edges == [(0, 1), (1, 2), (0, 3), (2, 3), (1, 4), (3, 4), (2, 5), (4, 5)], edges
model(torch.rand(2, 3, 32, 32)).sum().backward()
assert all(p.grad is not None for p in model.parameters())
analyze(spec, passes=(*PIPELINE, "forbid-wide-nodes"))
try:
    wide = load("examples/plugin/shifted.yaml", ["stages.layer2.width=2048"])
    analyze(wide, passes=(*PIPELINE, "forbid-wide-nodes"))
except SpecError as error:
    assert {d.slug for d in error.diagnostics} == {"node-too-wide"}
else:
    raise AssertionError("not refused")
"""
    done = run_python(installed, "-c", code)
    assert done.returncode == 0, done.stderr


def test_the_plugin_catalogue_is_current(installed):
    file = installed / "graphc_shift" / "catalogue.json"
    committed = file.read_text()
    own = (ROOT / "graphspec" / "catalogue.json").read_text()
    try:
        file.unlink()
        done = run_python(installed, "-m", "compiler.catalog", "--package", "graphc_shift")
        assert done.returncode == 0, done.stderr
        assert "graphc_shift has no catalogue.json" in done.stderr
        assert file.read_text() == committed
    finally:
        file.write_text(committed)
    code = "from compiler import catalog; print(catalog.render(), end='')"
    assert run_python(installed, "-c", code).stdout == own


def test_a_kind_of_ours_is_refused(installed):
    file = installed / "graphc_shift" / "catalogue.json"
    committed = file.read_text()
    try:
        file.write_text(committed.replace('"shift_conv"', '"bottleneck"'))
        done = run_python(installed, "-c", "import graphspec")
    finally:
        file.write_text(committed)
    assert done.returncode == 1
    assert "two blocks are named 'bottleneck'" in done.stderr
    assert str(file) in done.stderr
