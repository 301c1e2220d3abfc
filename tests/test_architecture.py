"""What lives where, who may import whom, and how large a file may grow (README, "Folders")."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

ROOT = Path(__file__).parents[1]
PACKAGES = ("graphspec", "compiler", "runtime")
MAX_LINES = {"graphspec": 600, "compiler": 600, "runtime": 600, "tests": 800, ".ci": 100}
PYTHON_FILES = sorted(
    path.relative_to(ROOT)
    for top in (*PACKAGES, "tests", ".ci")
    for path in (ROOT / top).rglob("*.py")
)
NO_TORCH = ["graphspec", "compiler", "compiler.passes", "compiler.cli"]
NO_TORCH_VERBS = [
    ["--help"],
    ["schema"],
    ["check", "examples/dgnet_digits.yaml"],
    ["resolve", "examples/dgnet_digits.yaml"],
]


def run_python(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *args],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_import_contracts(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    assert lint_imports(no_cache=True) == EXIT_STATUS_SUCCESS


@pytest.mark.parametrize("module", NO_TORCH)
def test_import_without_torch(module: str):
    done = run_python(f"import sys, {module}; assert 'torch' not in sys.modules")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("arguments", NO_TORCH_VERBS, ids=" ".join)
def test_verb_without_torch(arguments: list[str]):
    code = """
import sys
from compiler.cli import main
try:
    status = main(sys.argv[1:])
except SystemExit as exit:
    status = exit.code
assert not status, status
assert "torch" not in sys.modules
"""
    done = run_python(code, *arguments)
    assert done.returncode == 0, done.stderr


def test_runtime_imports_alone():
    code = """
import importlib, pkgutil, sys
for name in ("graphspec", "compiler", "pydantic", "networkx", "yaml", "jinja2"):
    sys.modules[name] = None  # importing it raises ImportError
import runtime
for module in pkgutil.walk_packages(runtime.__path__, "runtime."):
    importlib.import_module(module.name)
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr


def test_saved_network_runs_with_the_runtime_alone(tmp_path: Path):
    import torch

    from compiler import compile

    torch.manual_seed(0)
    model = compile(ROOT / "examples" / "dgnet_tiny.yaml").eval()
    x = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        torch.save((model, x, model(x)), tmp_path / "model.pt")
    code = """
import sys
for name in ("graphspec", "compiler"):
    sys.modules[name] = None
import torch
model, x, wanted = torch.load(sys.argv[1], weights_only=False)
with torch.inference_mode():
    torch.testing.assert_close(model(x), wanted)
"""
    done = run_python(code, str(tmp_path / "model.pt"))
    assert done.returncode == 0, done.stderr


def test_folders_are_those_of_the_readme():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    _, _, section = readme.partition("\n## Folders\n")
    told = set(re.findall(r"`((?:graphspec|compiler|runtime)/\w+)/`", section))
    found = {
        f"{package}/{path.name}"
        for package in PACKAGES
        for path in (ROOT / package).iterdir()
        if any(path.glob("*.py"))
    }
    assert found == told


def test_file_sizes():
    lines = {path: (ROOT / path).read_text(encoding="utf-8").count("\n") for path in PYTHON_FILES}
    assert not {path: n for path, n in lines.items() if n > MAX_LINES[path.parts[0]]}


def test_no_utils():
    assert not [path for path in PYTHON_FILES if re.search(r"util|helper|misc|common", path.stem)]


def test_pins_agree():
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["tool"]["uv"]["constraint-dependencies"] == constraints


def test_every_dependency_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    groups = [
        project["project"]["dependencies"],
        *project["project"]["optional-dependencies"].values(),
        *project["dependency-groups"].values(),
    ]
    names = {re.split(r"[\[<>=!~ ;]", line, maxsplit=1)[0] for group in groups for line in group}
    missing = [n for n in sorted(names) if not re.search(rf"^{n}==", pins, re.MULTILINE)]
    assert not missing, f"{missing}: run `uv run python .ci/pin.py`"


def test_no_index_addresses():
    for name in ("constraints.txt", "pyproject.toml", ".ci/run", ".ci/pin.py"):
        assert "://" not in (ROOT / name).read_text(encoding="utf-8"), name
    assert "uv.lock" in (ROOT / ".gitignore").read_text(encoding="utf-8").split()
