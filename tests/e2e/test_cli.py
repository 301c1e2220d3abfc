from __future__ import annotations

import csv
import json
import os
import pkgutil
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
import yaml

import compiler.cli
from compiler.cli import graphc, main
from compiler.files import replacing

VERBS = sorted(
    module.name.replace("_", "-")
    for module in pkgutil.iter_modules(compiler.cli.__path__)
    if not module.name.startswith("_")
)
SPEC = """\
version: 1
name: small
seed: 3
input_shape: [3, 8, 8]
stem: {kind: conv_bn_relu, width: 8}
stages:
  - name: layer1
    depth: 3
    width: 8
    block: {kind: basic, shortcut: false}
    wiring: complete
    edge_weights: routed
  - name: layer2
    depth: 8
    width: 16
    stride: 2
    block: separable_conv
    wiring: {kind: ws, k: 4, p: 0.75}
    edge_weights: learned
head: {kind: pooled_linear, num_classes: 10}
"""
WRONG = SPEC.replace("depth: 3", "depth: 0").replace("p: 0.75", "p: 7")


@pytest.fixture
def spec(tmp_path, monkeypatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(SPEC)
    return "small.yaml"


@pytest.fixture
def wrong(spec) -> str:
    Path("wrong.yaml").write_text(WRONG)
    return "wrong.yaml"


@pytest.fixture
def call(capsys):
    """Runs graphc in this process; returns the exit code, stdout and stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        status = main(arguments)
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return status, captured.out, captured.err

    return run


def run_python(code: str, *arguments: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        **options,
    )


# ---- the frame: help, exit codes, streams


def test_help_names_every_verb(call):
    status, out, err = call("--help")
    assert (status, err) == (0, "")
    for verb in VERBS:
        assert re.search(rf"^  {verb}  +\w", out, re.MULTILINE), verb


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_has_an_example(call, verb: str):
    status, out, _ = call(verb, "--help")
    assert status == 0
    assert re.search(rf"Examples?:.*graphc {verb}", out, re.DOTALL)
    assert "--debug" in out


def test_a_verb_of_nearly_that_name(call):
    status, out, err = call("chekc")
    assert (status, out) == (2, "")
    assert "did you mean 'check'?" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["check"], "Missing argument"),
        (["check", "nowhere.yaml"], "nowhere.yaml"),
        (["check", "."], "directory"),
        (["count", "small.yaml", "--jsn"], "--json"),
        (["draw", "small.yaml", "-o", "small.gif"], ".svg"),
        (["draw", "small.yaml"], "-o"),
        (["inspect", "small.yaml", "--stage", "layer9"], "known: layer1, layer2"),
        (["inspect", "small.yaml", "--after", "prune"], "prune-dead-nodes"),
        (["inspect", "small.yaml", "--after", "build", "--as", "code"], "--after"),
        (["sample", "small.yaml", "--seeds", "9-0", "-o", "new"], "9-0"),
        (["sample", "small.yaml", "--seeds", "x", "-o", "new"], "0-9"),
        (["sample", "small.yaml", "--macs", "many", "-o", "new"], "583M"),
        (["compile", "small.yaml", "-o", "small.yaml"], "is a file"),
        (["compile", "small.yaml", "-o", "."], "current folder"),
        (["init", "small.yaml"], "there already"),
    ],
)
def test_wrong_usage_exits_with_2(call, spec, arguments: list[str], said: str):
    status, out, err = call(*arguments)
    assert (status, out) == (2, "")
    assert said in err
    assert sorted(os.listdir()) == ["small.yaml"]


SPEC_VERBS = [
    ["check"],
    ["resolve"],
    ["inspect"],
    ["count"],
    ["count", "--json"],
    ["draw", "-o", "new.svg"],
    ["compile", "-o", "new"],
    ["sample", "-o", "new"],
    ["train"],
]


@pytest.mark.parametrize("verb", SPEC_VERBS, ids=" ".join)
def test_a_wrong_spec_exits_with_1_and_shows_all_findings(call, wrong, verb: list[str]):
    status, out, err = call(verb[0], wrong, *verb[1:])
    assert (status, out) == (1, "")
    assert err.count("error[") == 2
    assert "--> wrong.yaml:8:12\n" in err
    assert sorted(os.listdir()) == ["small.yaml", "wrong.yaml"]


@pytest.mark.parametrize("verb", SPEC_VERBS, ids=" ".join)
def test_a_wrong_override_is_located(call, spec, verb: list[str]):
    status, _, err = call(verb[0], spec, *verb[1:], "--set", "stages.layer1.depth=none")
    assert status == 1
    assert "--set" in err
    assert "stages.layer1.depth=none" in err


def make_verb(monkeypatch, error: BaseException) -> None:
    @click.command()
    def command() -> None:
        raise error

    monkeypatch.setitem(sys.modules, "compiler.cli.check", sys.modules[__name__])
    monkeypatch.setattr(sys.modules[__name__], "command", command, raising=False)


def test_our_own_failure_is_one_line_and_exits_with_3(capsys, monkeypatch):
    make_verb(monkeypatch, ZeroDivisionError("so\nit goes"))
    assert main(["check"]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "ZeroDivisionError: so it goes" in captured.err


@pytest.mark.parametrize("arguments", [["--debug", "check"], ["check", "--debug"]])
def test_debug_shows_the_traceback(capsys, monkeypatch, arguments: list[str]):
    make_verb(monkeypatch, ZeroDivisionError("so it goes"))
    assert main(arguments) == 3
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (KeyboardInterrupt(), 130),
        (click.Abort(), 130),
        (PermissionError(13, "Permission denied", "locked.yaml"), 2),
        (click.FileError("locked.yaml", "no"), 2),
        (RecursionError("deep"), 3),
        (MemoryError(), 3),
    ],
)
def test_exit_codes(call, monkeypatch, error: BaseException, status: int):
    make_verb(monkeypatch, error)
    found, out, err = call("check")
    assert (found, out) == (status, "")
    assert err


def test_an_interrupted_process_exits_with_130():
    code = """
import sys, time, types
import click
from compiler.cli import main

@click.command()
def command():
    print("ready", flush=True)
    time.sleep(60)

sys.modules["compiler.cli.check"] = types.SimpleNamespace(command=command)
sys.exit(main(["check"]))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in err


MAIN = "import sys; from compiler.cli import main; status = main(sys.argv[1:]); "


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["train", "--help"],
        ["schema"],
        ["init", "new.yaml"],
        ["check", "small.yaml"],
        ["resolve", "small.yaml"],
        ["inspect", "small.yaml"],
        ["inspect", "small.yaml", "--as", "mermaid"],
        ["draw", "small.yaml", "-o", "new.png"],
        ["draw", "small.yaml", "-o", "new.html"],
    ],
    ids=" ".join,
)
def test_verbs_that_need_no_torch_do_not_import_it(spec, arguments: list[str]):
    heavy = "{'torch', 'torchvision', 'accelerate', 'matplotlib', 'sklearn'}"
    done = run_python(
        f"{MAIN} assert not status; assert not {heavy} & set(sys.modules)", *arguments
    )
    assert done.returncode == 0, done.stderr


def test_check_is_frugal(spec):
    heavy = "{'torch', 'networkx', 'rich', 'jinja2', 'numpy'}"
    done = run_python(
        f"{MAIN} assert not status; assert not {heavy} & set(sys.modules)", "check", spec
    )
    assert done.returncode == 0, done.stderr


def test_no_colour_where_nobody_looks(spec, wrong):
    for arguments in (["count", spec], ["inspect", spec], ["check", wrong]):
        done = run_python(f"{MAIN} sys.exit(status)", *arguments)
        assert "\x1b" not in done.stdout + done.stderr


def test_a_reader_that_leaves_early_is_no_failure(spec):
    code = f"{MAIN} sys.exit(status)"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "schema"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    process.stdout.close()
    with process:
        assert "Traceback" not in process.stderr.read()
    assert process.returncode == 0


# ---- check


def test_check_says_ok_a_file(call, spec):
    Path("other.yaml").write_text(SPEC)
    status, out, err = call("check", spec, "other.yaml")
    assert (status, err) == (0, "")
    assert [line.partition(":")[0] for line in out.splitlines()] == [spec, "other.yaml"]
    assert re.search(r"small.yaml: ok, 2 stages, 15 nodes, \d+ edges", out)


def test_check_goes_on_after_a_wrong_file(call, spec, wrong):
    status, out, err = call("check", wrong, spec)
    assert status == 1
    assert out.startswith("small.yaml: ok")
    assert "wrong.yaml:8:12" in err


def test_check_gives_findings_as_data(call, spec, wrong):
    status, out, err = call("check", wrong, spec, "--json")
    assert (status, err) == (1, "")
    answer = json.loads(out)
    assert answer["ok"] is False
    assert [(f["file"], f["ok"]) for f in answer["files"]] == [(wrong, False), (spec, True)]
    finding = answer["files"][0]["diagnostics"][0]
    assert finding["path"] == "stages[0].depth"
    assert finding["place"]["line"] == 8
    assert answer["files"][1]["nodes"] == 15


def test_warnings_go_to_stderr_and_are_fine(call, spec):
    status, out, err = call("check", spec, "--set", "~seed")
    assert status == 0
    assert out.startswith("small.yaml: ok")
    assert "warning[" in err
    assert "seed" in err


# ---- init, schema, resolve


def test_init_writes_a_spec_that_is_right(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call("init", "mine.yaml")[:2] == (0, "")
    text = Path("mine.yaml").read_text()
    assert "graphc train mine.yaml" in text
    assert text.count("#") > 10
    assert call("check", "mine.yaml")[0] == 0
    assert call("init", "mine.yaml")[0] == 2
    assert Path("mine.yaml").read_text() == text


def test_schema_is_json_schema(call):
    status, out, err = call("schema")
    assert (status, err) == (0, "")
    schema = json.loads(out)
    assert "$schema" in schema
    assert {"version", "stages", "stem", "head"} <= set(schema["properties"])


def test_resolve_says_where_values_came_from(call, spec):
    Path("base.yaml").write_text(SPEC)
    Path("mine.yaml").write_text("extends: base.yaml\nname: mine\n")
    changed = ["--set", "stages.layer2.depth=6"]
    status, out, _ = call("resolve", "mine.yaml", *changed)
    assert status == 0
    lines = dict(re.split(r" +# ", line) for line in out.splitlines() if "#" in line)
    assert lines["name: mine"] == "mine.yaml:2:7"
    assert lines["    depth: 6"] == "--set #1"
    assert lines["    depth: 3"] == "base.yaml:8:12"
    merged = yaml.safe_load(out)
    Path("merged.yaml").write_text(out)
    assert merged["name"] == "mine"
    assert [stage["depth"] for stage in merged["stages"]] == [3, 6]
    assert call("check", "merged.yaml")[0] == 0

    answer = json.loads(call("resolve", "mine.yaml", *changed, "--json")[1])
    assert answer["origins"]["stages[1].depth"] == "--set #1"
    assert answer["spec"] == merged


# ---- inspect, draw, count, compile


def test_a_folder_in_the_place_of_a_picture_is_named(call, spec):
    Path("small.svg").mkdir()
    status, _, err = call("draw", spec, "-o", "small.svg")
    assert (status, err) == (2, f"Error: {Path('small.svg').absolute()}: Is a directory\n")


@pytest.mark.parametrize("stage", [None, "layer2"])
@pytest.mark.parametrize("form", ["table", "json", "dot", "mermaid", "code"])
def test_inspect_shows_the_nodes(call, spec, form: str, stage: str | None):
    arguments = ["--stage", stage] if stage else []
    status, out, err = call("inspect", spec, "--as", form, *arguments)
    assert (status, err) == (0, "")
    names = {"code": ("n3(", "aggregate_n3")}.get(form, ("layer2.n3", "layer2.output"))
    for name in names:
        assert name in out
    other = "router_n1" if form == "code" else "layer1.n1"
    assert (other in out) == (stage is None)
    if form == "json":
        data = json.loads(out)
        layer2 = data if stage else data["stages"][1]
        assert layer2["nodes"][-1]["out_shape"] == [16, 4, 4]
        assert {edge["weights"]["kind"] for edge in layer2["edges"]} == {"learned"}


@pytest.mark.parametrize("arguments", [[], ["--stage", "layer2"]])
def test_inspect_has_json_as_the_other_verbs_do(call, spec, arguments: list[str]):
    out = call("inspect", spec, "--json", *arguments)[1]
    assert out == call("inspect", spec, "--as", "json", *arguments)[1]
    assert next(iter(json.loads(out))) == "schema_version"


def test_inspect_after_a_pass(call, spec):
    def nodes(*arguments: str) -> list[dict]:
        out = call("inspect", spec, "--as", "json", *arguments)[1]
        return json.loads(out)["stages"][0]["nodes"]

    assert nodes("--after", "build")[1]["out_shape"] is None
    shaped = nodes("--after", "infer-shapes")[1]
    assert (shaped["out_shape"], shaped["router"]) == ([8, 8, 8], None)
    assert nodes("--after", "place-routers") == nodes()
    assert nodes()[1]["router"]["targets"] == ["layer1.n2", "layer1.n3", "layer1.output"]


@pytest.mark.parametrize("suffix", ["svg", "png", "html"])
def test_draw_writes_one_file(call, spec, suffix: str):
    assert call("draw", spec, "-o", f"deep/new.{suffix}")[:2] == (0, "")
    assert os.listdir("deep") == [f"new.{suffix}"]


def test_count_adds_up(call, spec):
    status, out, err = call("count", spec, "--json")
    assert (status, err) == (0, "")
    cost = json.loads(out)
    assert cost["macs"] > cost["conv_macs"] > 0
    for key in ("params", "conv_macs", "macs", "activations"):
        assert cost[key] == sum(stage[key] for stage in cost["stages"])
        for stage in cost["stages"]:
            assert stage[key] == sum(node[key] for node in stage["nodes"])
            for node in stage["nodes"]:
                assert node[key] == sum(part[key] for part in node["parts"].values())
    assert [stage["name"] for stage in cost["stages"]] == ["stem", "layer1", "layer2", "head"]
    table = call("count", spec)[1]
    for key in ("params", "conv_macs", "macs", "activations"):
        assert f"{cost[key]:,}" in table.splitlines()[-2] + table.splitlines()[-1]
    assert "layer2.n8" in table


def test_count_counts_the_parameters_of_the_network(call, spec):
    from compiler import compile

    params = sum(p.numel() for p in compile(spec, device="meta").parameters())
    assert json.loads(call("count", spec, "--json")[1])["params"] == params


def test_compile_writes_everything(call, spec):
    status, out, _ = call("compile", spec, "-o", "out/net")
    assert status == 0
    files = {
        *("spec.resolved.yaml", "graph.json", "graph.txt", "fx.txt", "code.txt"),
        *("cost.json", "cost.txt", "graph.svg", "manifest.json"),
    }
    assert set(os.listdir("out/net")) == files
    assert os.listdir("out") == ["net"]
    assert {Path(line).name for line in out.splitlines()} == files
    cost = json.loads(Path("out/net/cost.json").read_text())
    assert cost["params"] == json.loads(call("count", spec, "--json")[1])["params"]
    resolved = Path("out/net/spec.resolved.yaml").read_text()
    assert "explicit" in resolved
    assert "ws" not in resolved
    assert call("check", "out/net/spec.resolved.yaml")[0] == 0
    graph = json.loads(Path("out/net/graph.json").read_text())
    assert graph["stages"][0]["nodes"][1]["name"] == "layer1.n1"


def test_compile_is_repeatable_and_replaces_only_its_own(call, spec):
    assert call("compile", spec, "-o", "out")[0] == 0
    before = {path.name: path.read_text() for path in Path("out").iterdir()}
    Path("out/left_over").touch()
    status, out, _ = call("compile", spec, "-o", "out", "--json")
    assert status == 0
    assert json.loads(out)["files"].keys() | {"manifest.json"} == before.keys()
    assert {path.name: path.read_text() for path in Path("out").iterdir()} == before
    assert call("compile", "out/spec.resolved.yaml", "-o", "again")[0] == 0
    for name in ("graph.json", "fx.txt", "code.txt", "cost.json", "spec.resolved.yaml"):
        assert (Path("again") / name).read_text() == before[name], name

    Path("mine").mkdir()
    Path("mine/thesis.tex").write_text("years of work")
    status, _, err = call("compile", spec, "-o", "mine")
    assert status == 2
    assert "did not write" in err
    assert os.listdir("mine") == ["thesis.tex"]


# ---- sample, doctor


def test_sample_writes_a_spec_a_seed_and_a_table(call, spec):
    status, out, _ = call("sample", spec, "--seeds", "0-1,5", "-o", "drawn", "--json")
    assert status == 0
    samples = json.loads(out)["samples"]
    assert [sample["seed"] for sample in samples] == [0, 1, 5]
    with open("drawn/samples.csv") as file:
        rows = list(csv.DictReader(file))
    assert [{k: str(v) for k, v in sample.items()} for sample in samples] == rows
    assert json.loads(Path("drawn/samples.json").read_text())["samples"] == samples
    for sample in samples:
        resolved = f"drawn/{sample['file']}"
        cost = json.loads(call("count", resolved, "--json")[1])
        assert {key: cost[key] for key in ("params", "conv_macs", "macs")} == {
            key: sample[key] for key in ("params", "conv_macs", "macs")
        }
    texts = {Path("drawn", sample["file"]).read_text() for sample in samples}
    assert len(texts) == 3


def test_sample_finds_the_closest_width(call, spec):
    target = 1_500_000
    status, out, err = call(
        *("sample", spec, "--seeds", "0-1", "--macs", "1.5M", "-o", "drawn", "--json")
    )
    assert status == 0
    assert "conv MACs" in err
    samples = json.loads(out)["samples"]
    width = samples[0]["width"]

    def mean(width: int) -> float:
        widths = {
            "stem.width": width,
            "stages.layer1.width": width,
            "stages.layer2.width": 2 * width,
        }
        total = 0
        for seed in (0, 1):
            sets = [f"--set={key}={value}" for key, value in {**widths, "seed": seed}.items()]
            total += json.loads(call("count", spec, "--json", *sets)[1])["conv_macs"]
        return total / 2

    distances = {w: abs(mean(w) - target) for w in (width - 1, width, width + 1)}
    assert min(distances, key=distances.get) == width
    assert sum(sample["conv_macs"] for sample in samples) / 2 == mean(width)
    assert "warning" not in err


def test_sample_says_when_no_width_comes_close(call, spec):
    _, _, err = call("sample", spec, "--macs", "1K", "-o", "drawn")
    assert re.search(r"warning: the closest width has [\d,]+ conv MACs, not 1,000", err)


def test_doctor_finds_nothing_wrong_here(call, tmp_path):
    (tmp_path / "cifar").mkdir()
    status, out, _ = call("doctor", "--data-dir", str(tmp_path), "--json")
    answer = json.loads(out)
    assert (status, answer["problems"]) == (0, [])
    assert answer["data"]["holds"] == ["cifar"]
    assert "torch" in answer["versions"]
    folders = {answer["packages"][name] for name in ("graphspec", "compiler", "runtime")}
    assert folders == {str(Path(__file__).parents[2])}


def test_doctor_finds_a_package_of_the_same_name(tmp_path):
    (tmp_path / "runtime").mkdir()
    (tmp_path / "runtime" / "__init__.py").touch()
    done = run_python(
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {MAIN} sys.exit(status)", "doctor"
    )
    assert done.returncode == 1
    assert str(tmp_path) in done.stdout
    assert "different folders" in done.stderr
    assert "warning: parts of graphc come from different places" in done.stderr


# ---- outputs


def test_outputs_are_there_completely_or_not_at_all(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert path.read_text() == "old"
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["file"]


def test_every_verb_is_a_file():
    context = click.Context(graphc)
    assert graphc.list_commands(context) == VERBS
    assert {
        *("init", "check", "resolve", "compile", "inspect", "draw", "count", "sample"),
        *("train", "eval", "schema", "doctor"),
    } <= set(VERBS)
