from __future__ import annotations

import contextlib
import copy
import os
import pickle
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from compiler.analysis import analyze
from graphspec import (
    BlockSpec,
    Diagnostic,
    HeadSpec,
    NetworkSpec,
    SpecError,
    dump,
    load,
    loads,
    render,
)
from graphspec.errors import Provenance

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))

NET = """\
version: 1
name: net
seed: 3
input_shape: [3, 32, 32]
limits: {nodes: 60, edges: 900}
stem: {kind: conv_bn_relu, width: 16}
stage_defaults: &defaults
  block: {kind: bottleneck, groups: 2}
  width: 16
stages:
  - name: layer1
    depth: 3
    wiring: complete
    input_node: {kind: conv_bn_relu, kernel: 1}
    edge_weights: {kind: routed, bias_init: 3.0, threshold: 0.1}
    nodes:
      n2: separable_conv
  - name: layer2
    depth: 6
    stride: 2
    wiring: {kind: ws, k: 4, p: 0.75}
    edge_weights: learned
  - name: cell
    inputs: [layer1, layer2]
    wiring:
      kind: explicit
      edges:
        - [layer1, a]
        - [layer2, b]
        - {source: a, target: c, edge_weights: {kind: fixed, value: 0.5}}
        - [b, c]
        - [c, output]
    nodes:
      a: {stride: 2}
head: {kind: pooled_linear, num_classes: 10, dropout: 0.1}
"""


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_examples_reload_equal(example: Path):
    spec = load(example)
    assert loads(dump(spec)) == spec


def test_reload_equal():
    spec = loads(NET)
    text = dump(spec)
    assert loads(text) == spec
    assert dump(loads(text)) == text


def test_lists_of_python_reload_equal():
    head = HeadSpec.model_validate({"kind": "mlp", "num_classes": 3, "hidden": [64, 32]})
    spec = loads(NET).model_copy(update={"head": head})
    assert loads(dump(spec)) == spec
    assert hash(head) == hash(loads(dump(spec)).head)


def test_dump_is_as_short_as_what_was_written():
    written = (ROOT / "examples" / "hand_drawn.yaml").read_text(encoding="utf-8")
    assert yaml.safe_load(dump(loads(written))) == yaml.safe_load(written)


def test_dump_quotes_what_would_be_read_as_something_else():
    spec = loads(NET)
    odd = {"a": "1e5", "b": "on", "c": "null", "d": "0o17", "e": "x: y", "f": ["~", "é\n"]}
    spec = spec.model_copy(update={"stem": BlockSpec.model_validate({"kind": "k", **odd})})
    assert yaml.safe_load(dump(spec))["stem"] == {"kind": "k", **odd}
    with pytest.raises(SpecError) as caught:
        loads(dump(spec))
    assert {d.slug for d in caught.value.diagnostics} == {"unknown-kind"}


def test_numbers_are_what_they_are_in_yaml_1_2():
    spec = loads(NET, overrides=["stages.layer1.edge_weights.threshold=1e-3", "seed=0x10"])
    assert spec.seed == 16
    weights = spec.stages[0].edge_weights.model_dump()
    assert weights["threshold"] == 0.001
    assert loads(NET, overrides=["stages.layer2.wiring.p=1"]).stages[1].wiring.model_dump() == {
        "kind": "ws",
        "k": 4,
        "p": 1.0,
    }


def test_load_takes_paths_and_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "net.yaml").write_text(NET, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert load("net.yaml") == load(tmp_path / "net.yaml") == loads(NET)
    (tmp_path / "top.yaml").write_text("extends: net.yaml\nseed: 4\n", encoding="utf-8")
    assert load("top.yaml") == loads("extends: net.yaml", overrides=["seed=4"])


def test_byte_order_mark_and_windows_line_ends(tmp_path: Path):
    path = tmp_path / "net.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + NET.replace("\n", "\r\n").encode())
    assert load(path) == loads(NET)


@pytest.mark.parametrize("name", ["nowhere.yaml", "."])
def test_unreadable_files_are_no_findings(name: str, tmp_path: Path):
    with pytest.raises(OSError, match=r"."):
        load(tmp_path / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_forbidden_files_are_no_findings(tmp_path: Path):
    path = tmp_path / "net.yaml"
    path.write_text(NET, encoding="utf-8")
    path.chmod(0)
    with pytest.raises(PermissionError):
        load(path)


def test_a_loaded_spec_knows_its_places():
    spec = loads(NET, "net.yaml", ["seed=5"])
    locate = spec.provenance.locate
    assert str(locate(("stages", 1, "wiring", "k"))) == "net.yaml:21:27"
    assert str(locate(("stages", 0, "block", "groups"))) == "net.yaml:8:37"
    assert str(locate(("seed",))) == "--set #1:1:6"
    # defaults stand where what they belong to stands
    assert str(locate(("stages", 1, "edge_weights", "init"))) == "net.yaml:22:19"
    assert str(locate(("stages", 2, "aggregate"))) == "net.yaml:23:5"


def test_places_do_not_count():
    spec = loads(NET, "net.yaml")
    again = loads("\n\n" + NET)
    made = NetworkSpec.model_validate(spec.model_dump())
    assert spec == again == made
    assert made.provenance.locate(("seed",)) is None
    assert made.with_provenance(spec.provenance) == made
    for copied in (copy.deepcopy(spec), pickle.loads(pickle.dumps(spec)), spec.model_copy()):
        assert copied == spec
        assert str(copied.provenance.locate(("seed",))) == "net.yaml:3:7"
    assert isinstance(made.provenance, Provenance)


def test_all_errors_at_once_by_place():
    edits = {
        "name: net": "nmae: net",
        "width: 16}": "width: 0, kernel: 2}",
        "kind: bottleneck": "kind: bottlenek",
        "p: 0.75": "p: 1.75",
        "[b, c]": "[b]",
        "num_classes: 10": "num_classes: ten",
    }
    text = NET
    for old, new in edits.items():
        text = text.replace(old, new)
    with pytest.raises(SpecError) as caught:
        loads(text, overrides=["stages.cell.depth=x"])
    found = caught.value.diagnostics
    assert [d.slug for d in found] == [
        "wrong-type",
        "unknown-key",
        "out-of-range",
        "not-allowed",
        "unknown-kind",
        "out-of-range",
        "wrong-type",
        "wrong-type",
    ]
    places = [d.span.line for d in found[1:] if d.span]
    assert places == sorted(places)


def test_single_and_cross_field_rules_in_one_run():
    text = NET.replace("k: 4", "k: 6").replace("groups: 2", "groups: 0")
    with pytest.raises(SpecError) as caught:
        loads(text)
    assert [d.slug for d in caught.value.diagnostics] == ["out-of-range", "wiring-misfit"]


@pytest.mark.parametrize("verb", ["load", "loads"])
def test_no_torch(verb: str):
    code = (
        "import sys; from graphspec import load, loads; "
        f"path = sys.argv[1]; {verb}(path if '{verb}' == 'load' else open(path).read()); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, "examples/hand_drawn.yaml"], check=True, cwd=ROOT)


def survives(text: str, overrides: tuple[str, ...] = ()) -> None:
    """Whatever is wrong with a text, it is a SpecError, and every finding can be printed."""
    findings: tuple[Diagnostic, ...] = ()
    try:
        spec = loads(text, overrides=overrides)
        analyze(spec)
        assert loads(dump(spec)) == spec
    except SpecError as error:
        findings = error.diagnostics
    assert render(findings) or not findings
    for finding in findings:
        assert finding.span is not None
        assert finding.message
        assert finding.to_dict()


CHARACTERS = st.sampled_from(list("{}[]:,-&*!|>'\"%@`#? \n\tabz019._~<=\0é\u2028"))
TOKENS = sorted({*NET.split(), "null", "true", "1e5", ".nan", "[]", "{}", "<<:", "*defaults"})


@given(st.data())
def test_mutated_text(data: st.DataObject):
    text = NET
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        stop = start + data.draw(st.integers(0, 6))
        text = text[:start] + data.draw(st.text(CHARACTERS, max_size=4)) + text[stop:]
    survives(text)


@given(st.data())
def test_mutated_tokens(data: st.DataObject):
    lines = NET.split("\n")
    for _ in range(data.draw(st.integers(1, 5))):
        index = data.draw(st.integers(0, len(lines) - 1))
        words = lines[index].split(" ")
        place = data.draw(st.integers(0, len(words) - 1))
        words[place] = data.draw(st.sampled_from(TOKENS))
        lines[index] = " ".join(words)
    survives("\n".join(lines))


def places_in(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner: Any = ()
    if isinstance(value, dict):
        inner = value.items()
    elif isinstance(value, list):
        inner = enumerate(value)
    return [path, *(place for key, below in inner for place in places_in(below, (*path, key)))]


TREE = yaml.safe_load(NET)
PLACES = places_in(TREE)[1:]
WRONG = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 40)
    | st.sampled_from([10**30, -1.5, 0.5, 1e300, float("inf"), float("nan")])
    | st.sampled_from(["", "n1", "layer1", "complete", "explicit", "Bad Name", "basic", "output"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["kind", "width", "depth", "n1", "edges", "x y"]), inner)
    ),
    max_leaves=5,
)


@given(
    st.lists(st.tuples(st.sampled_from(PLACES), WRONG | st.just("drop")), min_size=1, max_size=4)
)
def test_wrong_values(changes: list[tuple[tuple[Any, ...], Any]]):
    tree = copy.deepcopy(TREE)
    for path, value in changes:
        holder: Any = tree
        with contextlib.suppress(LookupError, TypeError):  # an earlier change took the place away
            for part in path[:-1]:
                holder = holder[part]
            holder[path[-1]] = value
            if value == "drop":
                del holder[path[-1]]
    survives(yaml.dump(tree, sort_keys=False))


SEGMENTS = """
stages layer1 layer2 * [0] [-1] [9] block kind nodes n1 wiring depth stage_defaults name edges
[a] width x/y
""".split()
SETTINGS = ["", "=", "=3", "=basic", "={kind: er}", "=[", "=~", "=a: b", "=1e9", "=[[a, b]]"]


@given(
    st.lists(st.sampled_from([*SEGMENTS, ""]), min_size=1, max_size=5),
    st.sampled_from(["", "~"]),
    st.sampled_from(SETTINGS),
)
def test_wrong_overrides(segments: list[str], prefix: str, value: str):
    survives(NET, (prefix + ".".join(segments).replace(".[", "[") + value,))


def test_the_examples_survive_losing_any_line():
    rng = random.Random(0)
    for example in EXAMPLES:
        lines = example.read_text(encoding="utf-8").split("\n")
        del lines[rng.randrange(len(lines))]
        survives("\n".join(lines))
