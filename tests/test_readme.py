"""Runs the code blocks of README.md, CONTRIBUTING.md and docs/.

- `yaml`: a block with a first line `# path/name.yaml` is a file that later blocks may use (one
  called wrong.yaml is not checked here: a `console` block shows its errors). A block with
  `version:` is a whole spec, another one with `extends:` too; every other block is a part of a
  stage, or a list of stages, and is laid into a small spec. All must be free of errors.
- `python`: a block with a first line `# path/name.py` is a module, see test_recipes; the others run
  in order, in one namespace a document.
- `console`: lines after `$ ` are commands, the others are their output.
- `text` right after `python` or `console` text: what that block prints; `...` stands for anything.
- `bash`: commands that are too long for a test, or need a network: see check_long.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
OTHER_PROGRAMS = {"python", "pip", "uv", "pytest", "git", "cd", "bash"}
BASE_STAGE = {"name": "stage", "depth": 8, "width": 8, "wiring": "chain", "block": "conv_bn_relu"}
BASE = {
    "version": 1,
    "name": "documented",
    "seed": 0,
    "input_shape": [3, 32, 32],
    "stem": {"kind": "conv_bn_relu", "width": 8},
    "head": {"kind": "pooled_linear", "num_classes": 10},
}


@dataclass(frozen=True)
class Block:
    language: str
    text: str
    line: int

    @property
    def file_name(self) -> str | None:
        first = re.match(r"# ([\w./-]+\.(?:yaml|py))\n", self.text)
        return first and first[1]


def blocks(document: Path) -> list[Block]:
    text = document.read_text(encoding="utf-8")
    return [
        Block(match[1], match[2], text.count("\n", 0, match.start()) + 1)
        for match in FENCE.finditer(text)
    ]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_code_blocks(
    document: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    subtests: pytest.Subtests,
):
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    namespace: dict[str, Any] = {"__name__": document.stem}
    printed = ""
    for block in blocks(document):
        with subtests.test(f"{block.language} block in line {block.line}"):
            match block.language:
                case "yaml":
                    check_yaml(block)
                case "python" if not block.file_name:
                    printed = run_python(block, namespace)
                case "console":
                    run_console(block)
                case "bash":
                    check_long(block)
                case "text":
                    assert_output(block.text, printed)
                case _:
                    pass


def check_yaml(block: Block) -> None:
    from compiler import analyze
    from graphspec import load, loads

    if block.file_name:
        path = Path(block.file_name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text)
        if not path.stem.startswith("wrong"):
            analyze(load(path))
        return
    part = yaml.safe_load(block.text)
    if "version" in part or "extends" in part:
        analyze(loads(block.text))
        return
    if isinstance(part, list):
        spec = BASE | {"stages": part}
    elif part.keys() <= BASE.keys() | {"stages", "limits", "stage_defaults"}:
        spec = BASE | {"stages": [BASE_STAGE]} | part
    else:
        spec = BASE | {"stages": [BASE_STAGE | part]}
    analyze(loads(yaml.safe_dump(spec, sort_keys=False)))


def run_python(block: Block, namespace: dict[str, Any]) -> str:
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile("\n" * block.line + block.text, str(namespace["__name__"]), "exec"), namespace)
    return output.getvalue()


def run_console(block: Block) -> None:
    for step in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, _, wanted = step.partition("\n")
        done = run_graphc(command)
        assert_output(wanted, done.stdout + done.stderr)
        expected = 1 if re.search(r"^error\[", wanted, re.MULTILINE) else 0
        assert done.returncode == expected, done.stderr


def run_graphc(command: str) -> subprocess.CompletedProcess[str]:
    program, *arguments = shlex.split(command.removeprefix("uv run "))
    assert program == "graphc", f"only graphc is run here, not {program}"
    code = "import sys; from compiler.cli import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )


def check_long(block: Block) -> None:
    """What can be said of a command without running it: its verb, options and files exist."""
    for line in block.text.replace("\\\n", " ").splitlines():
        for command in line.partition("#")[0].split("&&"):
            words = shlex.split(command.strip().removeprefix("uv run "))
            if not words or words[0] != "graphc":
                assert not words or words[0] in {
                    "python",
                    "pip",
                    "uv",
                    "pytest",
                    "git",
                    "cd",
                    "bash",
                }
                continue
            usage = run_graphc(f"graphc {words[1]} --help").stdout
            options = [word.partition("=")[0] for word in words if word.startswith("--")]
            assert not [option for option in options if option not in usage]
            specs = [word for word in words if word.startswith("examples/")]
            assert not [spec for spec in specs if not Path(spec).exists()]


def assert_output(wanted: str, got: str) -> None:
    if wanted.strip():
        assert doctest.OutputChecker().check_output(wanted, got, FLAGS), got


RECIPES = {
    block.file_name: block
    for block in blocks(ROOT / "CONTRIBUTING.md")
    if block.language == "python"
}
RECIPE_CHECKS = {
    "graphspec/wiring/ladder.py": """
import random
edges = Ladder(span=3).connect(5, random.Random(0))
assert edges == sorted(edges, key=lambda edge: edge[::-1]), edges
assert {s for s, _ in edges} == set(range(6)) and {t for _, t in edges} == set(range(1, 7)), edges
""",
    "runtime/blocks/linear_mix.py": """
import torch
assert LinearMix(4, 8, 2, groups=2)(torch.rand(1, 4, 7, 7)).shape == (1, 8, 4, 4)
""",
    "compiler/backends/keys.py": """
import tempfile
from compiler import analyze, compile
from graphspec import load
spec = load("examples/dgnet_tiny.yaml")
graph, _ = analyze(spec)
with tempfile.TemporaryDirectory() as folder:
    (path,) = Keys().emit(spec, graph, compile(spec), Path(folder))
    assert "head." in path.read_text()
""",
    "compiler/passes/forbid_wide_nodes.py": """
from compiler import analyze
from compiler.passes import PIPELINE
from graphspec import SpecError, load
spec = load("examples/dgnet_digits.yaml")
analyze(spec, passes=(*PIPELINE, "forbid-wide-nodes"))
wide = load("examples/dgnet_digits.yaml", ["stages.*.width=8192"])
try:
    analyze(wide, passes=("forbid-wide-nodes",))
except SpecError as error:
    assert {d.slug for d in error.diagnostics} == {"node-too-wide"}
else:
    raise AssertionError("not refused")
""",
}


@pytest.mark.parametrize("name", sorted({*RECIPES, *RECIPE_CHECKS}))
def test_recipes(name: str):
    code = RECIPES[name].text + RECIPE_CHECKS[name]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_language_page_is_complete():
    from graphspec import CATALOGUE
    from graphspec.spec import (
        BlockSpec,
        EndNodeSpec,
        HeadSpec,
        Limits,
        NetworkSpec,
        StageSpec,
        StemSpec,
    )
    from graphspec.weights import Fixed, Learned, Routed
    from graphspec.wiring import WIRINGS
    from graphspec.wiring.explicit import ExplicitEdge

    models = [NetworkSpec, StageSpec, BlockSpec, StemSpec, HeadSpec, EndNodeSpec, Limits]
    models += [Fixed, Learned, Routed, ExplicitEdge, *WIRINGS.values()]
    words = {name for model in models for name in model.model_fields} | {*WIRINGS}
    words |= {model.model_fields["kind"].default for model in (Fixed, Learned, Routed)}
    groups = (CATALOGUE.blocks, CATALOGUE.stems, CATALOGUE.heads, CATALOGUE.routers)
    for group in groups:
        words |= {*group} | {name for entry in group.values() for name in entry.params}
    page = (ROOT / "docs" / "language.md").read_text(encoding="utf-8")
    assert not sorted(word for word in words if not re.search(rf"\b{word}\b", page))


def test_network_table_is_the_goldens():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|(.*?)\|(.*?)\|(.*?)\|$", readme, re.MULTILINE)
    told = {
        prefix + name if not name.startswith("dgnet_") else name: cell.strip()
        for name, *cells in rows
        for prefix, cell in zip(("", "dgnet_", "alpha_"), cells, strict=True)
        if cell.strip()
    }
    assert len(told) > 20
    for name, cell in told.items():
        golden = ROOT / "tests" / "golden" / name / "complexity.json"
        cost = json.loads(golden.read_text(encoding="utf-8"))
        assert cell == f"{cost['params'] / 1e6:.3f} / {cost['conv_macs'] / 1e6:.3f}", name


def test_picture_is_current(tmp_path: Path, pytestconfig: pytest.Config):
    """docs/my_network.svg is what `graphc draw` makes of the README's spec."""
    spec = next(block for block in blocks(ROOT / "README.md") if block.file_name == "my.yaml")
    (tmp_path / "my.yaml").write_text(spec.text)
    done = run_graphc(f"graphc draw {tmp_path / 'my.yaml'} -o {tmp_path / 'my.svg'}")
    assert done.returncode == 0, done.stderr
    drawn = (tmp_path / "my.svg").read_text(encoding="utf-8")
    picture = ROOT / "docs" / "my_network.svg"
    if pytestconfig.getoption("update_golden"):
        picture.write_text(drawn, encoding="utf-8")
    assert drawn == picture.read_text(encoding="utf-8")


def test_readme_tells_every_verb_and_example():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    verbs = {path.stem.replace("_", "-") for path in (ROOT / "compiler" / "cli").glob("[a-z]*.py")}
    assert not [verb for verb in sorted(verbs) if f"`{verb}`" not in readme]
    names = {
        path.stem.removeprefix("dgnet_").removeprefix("alpha_"): path.stem
        for path in (ROOT / "examples").glob("*.yaml")
    }
    assert not [
        b for a, b in sorted(names.items()) if f"`{a}`" not in readme and f"`{b}`" not in readme
    ]
