"""Every wrong spec of `tests/bad_specs` gets its message, at its place, and nothing else.

A file there holds a `base` that is right and `rows` that make it wrong. A row is one of

- `edit: [old, new]`: the base with a piece of its text replaced;
- `set: [...]`: the base under overrides;
- `text`: another text altogether, or `bytes`: what is not even text;

with `files` beside it, by name. Guillemets mark where the caret must be; `at` is a marked piece
of the text for an error that is not where the edit is. `slug` and `path` are what the error must
have, `says` and `help` what its message and its help must contain, `also` the other errors
(`slug path`). `values` makes one case of each of its entries: the key goes in for `?`, the value
for `{}` in `says`.
"""

from __future__ import annotations

import ast
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from compiler.analysis import analyze
from compiler.cli import main
from graphspec import CATALOGUE, Diagnostic, SpecError, load, render
from graphspec.spec import EndNodeSpec, HeadSpec, Limits, NetworkSpec, StageSpec, StemSpec
from graphspec.weights import Fixed, Learned, Routed
from graphspec.wiring import WIRINGS
from graphspec.wiring.explicit import ExplicitEdge

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "tests" / "bad_specs"
SLUG = re.compile("[a-z]+(-[a-z0-9]+)*")
MARKED = re.compile("«(.*?)»", re.DOTALL)


@dataclass(frozen=True)
class Case:
    """One wrong spec, and the error that it must give."""

    name: str
    data: bytes
    overrides: tuple[str, ...]
    files: dict[str, bytes]
    slug: str
    path: str
    says: str
    help: str
    place: tuple[str, int, int, int] | None
    severity: str = "error"
    also: tuple[str, ...] = field(default=())


def read_cases() -> list[Case]:
    cases: list[Case] = []
    for file in sorted(FOLDER.glob("*.yaml")):
        table = yaml.safe_load(file.read_text(encoding="utf-8"))
        for number, row in enumerate(table["rows"], start=1):
            values = row.pop("values", {"?": "{}"})
            for index, (value, found) in enumerate(values.items()):
                name = f"{file.stem}-{number}{chr(97 + index) if len(values) > 1 else ''}"
                filled = fill(row, str(value), str(found))
                cases.append(make_case(f"{name}-{row['slug']}", table.get("base", ""), filled))
    return cases


def fill(row: Any, value: str, found: str) -> Any:
    """The row with `?` and `{}` filled in."""
    filled = dict(row)
    if "edit" in row:
        filled["edit"] = [row["edit"][0], row["edit"][1].replace("?", value)]
    if "set" in row:
        filled["set"] = [text.replace("?", value) for text in row["set"]]
    filled["says"] = row.get("says", "").replace("{}", found)
    return filled


def make_case(name: str, base: str, row: dict[str, Any]) -> Case:
    text: str = row.get("text", base)
    if "edit" in row:
        old, new = row["edit"]
        assert text.count(old) == 1, f"{name}: {old!r} must be in the base once"
        text = text.replace(old, new)
    if "at" in row:
        piece = MARKED.sub(r"\1", row["at"])
        assert text.count(piece) == 1, f"{name}: {piece!r} must be in the text once"
        text = text.replace(piece, row["at"])
    overrides = [str(override) for override in row.get("set", ())]
    files = dict(row.get("files", {}))
    place = None
    texts = {"spec.yaml": text, **files} | {
        f"--set #{n}": override for n, override in enumerate(overrides, start=1)
    }
    for file, marked in texts.items():
        if match := MARKED.search(marked):
            before = marked[: match.start()].split("\n")
            place = (file, len(before), len(before[-1]) + 1, max(1, len(match[1])))
    plain = {file: MARKED.sub(r"\1", marked) for file, marked in texts.items()}
    data = plain["spec.yaml"].encode()
    if "bytes" in row:
        data = row["bytes"].encode("latin-1")
        place = tuple(row["place"])
    return Case(
        name,
        data,
        tuple(MARKED.sub(r"\1", override) for override in overrides),
        {file: plain[file].encode() for file in files},
        row["slug"],
        row.get("path", ""),
        row["says"],
        row.get("help", ""),
        place,
        row.get("severity", "error"),
        tuple(row.get("also", ())),
    )


CASES = read_cases()
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def write(case: Case, folder: Path) -> Path:
    for name, data in {"spec.yaml": case.data, **case.files}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder / "spec.yaml"


def findings(path: Path, overrides: tuple[str, ...]) -> tuple[Diagnostic, ...]:
    """Everything found wrong with a spec; no other exception may get out."""
    try:
        return analyze(load(path, overrides))[1]
    except SpecError as error:
        return error.diagnostics


@each_case
def test_message(case: Case, tmp_path: Path):
    found = findings(write(case, tmp_path), case.overrides)
    shown = render(found)

    expected = [
        d for d in found if (d.severity, d.slug, d.path) == (case.severity, case.slug, case.path)
    ]
    assert expected, f"no {case.severity}[{case.slug}] at {case.path!r} in:\n{shown}"
    assert case.says in expected[0].message, shown
    assert case.help in (expected[0].help or ""), shown
    others = sorted(f"{d.slug} {d.path}".strip() for d in found if d.severity == "error")
    if case.severity == "error":
        others.remove(f"{case.slug} {case.path}".strip())
    assert others == sorted(case.also), shown
    span = expected[0].span
    assert span is not None, shown
    assert case.place is not None, "the row must say where the caret is"
    is_file = not span.file.startswith("--")
    file = Path(os.path.normpath(span.file)).relative_to(tmp_path) if is_file else span.file
    assert (str(file), span.line, span.column, span.width) == case.place, shown
    for finding in found:
        check_place(finding)


def check_place(finding: Diagnostic) -> None:
    """Whether the carets are under the text of the line that the finding names."""
    span = finding.span
    assert span is not None
    if not span.file.startswith("--"):
        lines = Path(span.file).read_bytes().decode(errors="replace").split("\n")
        assert span.text == lines[span.line - 1].rstrip("\r").removeprefix("\ufeff")
    assert 1 <= span.column <= len(span.text) + 1
    assert span.column + span.width - 1 <= max(len(span.text), span.column)


@each_case
def test_check_exits_with_1(case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = write(case, tmp_path)
    sets = [part for override in case.overrides for part in ("--set", override)]

    code = main(["check", str(path), *sets])

    shown = capsys.readouterr().err
    assert code == (1 if case.severity == "error" else 0), shown
    assert f"{case.severity}[{case.slug}]" in shown
    assert "Traceback" not in shown


def test_there_are_300():
    assert len([case for case in CASES if case.severity == "error"]) >= 300


def test_bases_are_right(tmp_path: Path):
    for file in sorted(FOLDER.glob("*.yaml")):
        if base := yaml.safe_load(file.read_text(encoding="utf-8")).get("base"):
            (tmp_path / file.name).write_text(base, encoding="utf-8")
            assert findings(tmp_path / file.name, ()) == (), file.name


def test_every_field_has_a_row():
    models = [NetworkSpec, StageSpec, StemSpec, HeadSpec, EndNodeSpec, Limits, ExplicitEdge]
    models += [Fixed, Learned, Routed, *WIRINGS.values()]
    fields = {name for model in models for name in model.model_fields}
    covered = {key for case in CASES for key in re.findall(r"\w+", case.path)}
    assert not sorted(fields - covered)


def test_every_block_parameter_has_a_row():
    covered = {(case.path.split(".")[-1].split("[")[0]) for case in CASES}
    groups = (CATALOGUE.blocks, CATALOGUE.stems, CATALOGUE.heads)
    params = {name for group in groups for entry in group.values() for name in entry.params}
    assert not sorted(params - covered)


def test_every_slug_has_a_row():
    slugs: set[str] = set()
    files = {*ROOT.glob("graphspec/*.py"), *ROOT.glob("compiler/passes/*.py")}
    for file in sorted(files - {ROOT / "graphspec" / "builder.py"}):  # that one reads no text
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            if node.func.attr in ("error", "warning", "add", "_error"):
                literals = [a.value for a in node.args if isinstance(a, ast.Constant)]
                words = [str(v) for v in literals if v not in ("error", "warning")]
                slugs |= set(filter(SLUG.fullmatch, words[:1]))
    assert len(slugs) > 30
    # No text makes `wiring-broken`: it is the fault of a rule, see tests/graphspec/test_build.py.
    assert sorted(slugs - {case.slug for case in CASES}) == ["wiring-broken"]
