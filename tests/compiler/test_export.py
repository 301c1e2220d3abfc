from __future__ import annotations

import importlib.util
import io
import json
import statistics
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from compiler import analyze, compile
from compiler.backends import BACKENDS, EmitError
from compiler.backends._export import ExportBackend, MissingToolError, capture
from compiler.cli import main
from graphspec import NetworkSpec, content_hash, load, loads
from runtime.gating import gates, inference
from runtime.sparse import sparse

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))
DYNAMIC = """\
version: 1
name: dynamic
seed: 1
input_shape: [3, 16, 16]
stem: {kind: conv_bn_relu, width: 8}
stages:
  - name: layer1
    depth: 2
    width: 8
    stride: 2
    block: conv_bn_relu
    input_node: {kind: conv_bn_relu, kernel: 1}
    wiring: complete
    edge_weights: {kind: routed, bias_init: 0.0, threshold: 0.5}
  - name: layer2
    depth: 1
    width: 8
    block: separable_conv
    wiring: complete
    edge_weights: learned
head: {kind: pooled_linear, num_classes: 5}
"""
FORMS = ["exported", "onnx"]
ROUNDS = 5


def make(spec: NetworkSpec, size: int | None = None) -> torch.fx.GraphModule:
    """Weights and statistics unlike the initial ones, so that edges are open and closed.

    `size`: of the images that the statistics are of, if not the spec's.
    """
    torch.manual_seed(0)
    model = compile(spec)
    channels, height, width = spec.input_shape
    sizes = (min(height, size or height), min(width, size or width))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # one batch suffices
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".router." in name:  # some edges are closed, some images' more than others'
                if parameter.dim() > 1:
                    parameter.normal_(0, 3 * parameter.shape[1] ** -0.5)
                else:
                    parameter.fill_(1.5)
        for name, tensor in model.state_dict().items():
            if name.endswith(".threshold"):
                tensor.fill_(0.5)
        model(torch.rand(8, channels, *sizes))
    return model.eval()


def read(form: str, path: Path):
    if form == "exported":
        with path.open("rb") as file:
            return torch.export.load(file).module()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


@pytest.fixture(scope="module", params=FORMS)
def dynamic(request, tmp_path_factory):
    spec = loads(DYNAMIC)
    model = make(spec)
    path = tmp_path_factory.mktemp(request.param) / "network"
    form = BACKENDS[request.param]()
    export = form.export(spec, analyze(spec)[0], model, path)
    return spec, model, export, request.param


def test_any_batch_and_image_size(dynamic):
    _, model, export, form = dynamic
    assert export.dynamic == ("batch", "height", "width")
    assert export.difference <= 1e-4
    run = read(form, export.path)
    for shape in [(1, 3, 16, 16), (7, 3, 16, 16), (2, 3, 24, 33)]:
        images = torch.randn(shape)
        with torch.no_grad():
            masked = model(images)
            with inference(model, mode="soft"):
                soft = model(images)
        torch.testing.assert_close(run(images), masked, atol=1e-5, rtol=1e-4)
        assert (soft - masked).abs().max() > 1e-3, "no edge is closed: nothing was tested"


def test_the_file_says_what_it_is(dynamic):
    spec, _, export, form = dynamic
    if form == "onnx":
        import onnx

        model = onnx.load(export.path)
        onnx.checker.check_model(model)
        properties = {entry.key: entry.value for entry in model.metadata_props}
        assert properties["graphc.spec_hash"] == content_hash(spec)
        axes = [axis.dim_param for axis in model.graph.input[0].type.tensor_type.shape.dim]
        assert axes == ["batch", "", "height", "width"]
    else:
        extra = {"spec.resolved.yaml": ""}
        torch.export.load(io.BytesIO(export.path.read_bytes()), extra_files=extra)
        assert content_hash(loads(extra["spec.resolved.yaml"])) == content_hash(spec)


def test_the_network_stays_as_it_was(tmp_path):
    spec = loads(DYNAMIC)
    model = make(spec).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    form = BACKENDS["exported"](mode="soft")
    paths = form.emit(spec, analyze(spec)[0], model, tmp_path)
    assert paths == (tmp_path / "network.pt2",)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    images = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        masked = model.eval()(images)
        with inference(model, mode="soft"):
            soft = model(images)
    torch.testing.assert_close(read("exported", paths[0])(images), soft)
    assert (soft - masked).abs().max() > 1e-3


def test_sparse_inference_is_refused(tmp_path):
    spec = loads(DYNAMIC)
    graph, model = analyze(spec)[0], compile(spec)
    with pytest.raises(EmitError, match="image by image"):
        BACKENDS["exported"](mode="sparse").emit(spec, graph, model, tmp_path)
    with pytest.raises(EmitError, match="image by image"):
        BACKENDS["exported"]().emit(spec, graph, sparse(model), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_wrong_export_is_not_written(tmp_path, monkeypatch):
    spec = loads(DYNAMIC)
    path = tmp_path / "network.pt2"
    path.write_text("an earlier file")
    monkeypatch.setattr(
        BACKENDS["exported"], "runner", lambda self, path: lambda x: torch.zeros(len(x), 5)
    )
    model = make(spec)
    with torch.no_grad():
        model.get_submodule("head").fc.bias.fill_(1.0)
    with pytest.raises(EmitError, match="differ from eager's"):
        BACKENDS["exported"]().export(spec, analyze(spec)[0], model, path)
    assert path.read_text() == "an earlier file"
    assert list(tmp_path.iterdir()) == [path]


def hide(monkeypatch, *names: str) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "compiler.backends.onnx.find_spec", lambda name: None if name in names else found(name)
    )


def test_onnx_is_missing(tmp_path, monkeypatch, capsys):
    hide(monkeypatch, "onnx", "onnxscript")
    Path(tmp_path / "dynamic.yaml").write_text(DYNAMIC)
    output = tmp_path / "network.onnx"
    arguments = ["export", str(tmp_path / "dynamic.yaml"), "--to", "onnx", "-o", str(output)]
    assert main(arguments) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "onnx and onnxscript: pip install 'graphc-nn[export]'" in error
    assert not output.exists()


def test_without_onnxruntime_nothing_is_compared(tmp_path, monkeypatch):
    hide(monkeypatch, "onnxruntime")
    form = BACKENDS["onnx"]()
    assert isinstance(form, ExportBackend)
    assert form.runner(tmp_path / "network.onnx") is None


def test_aoti_needs_a_compiler(tmp_path, monkeypatch):
    from torch._inductor import cpp_builder
    from torch._inductor.exc import InvalidCxxCompiler

    def nothing():
        raise InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", nothing)
    spec = loads(DYNAMIC)
    with pytest.raises(MissingToolError, match=r"C\+\+ compiler"):
        BACKENDS["aoti"]().emit(spec, analyze(spec)[0], compile(spec), tmp_path)


def test_verb_exports_a_run(tmp_path, capsys):
    from safetensors.torch import save_file

    from graphspec import dump, resolve

    spec = load(EXAMPLES[0].with_name("chain_tiny.yaml"), ["stages.*.width=8"])
    model = make(spec)
    run = tmp_path / "run"
    run.mkdir()
    (run / "spec.resolved.yaml").write_text(dump(resolve(spec)))
    save_file(model.state_dict(), run / "weights.safetensors")
    output = tmp_path / "new" / "chain.pt2"
    assert main(["export", str(run), "--to", "exported", "-o", str(output), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["file"] == str(output)
    assert said["bytes"] == output.stat().st_size
    assert said["dynamic"] == ["batch", "height", "width"]
    images = torch.rand(5, *spec.input_shape)
    with torch.no_grad():
        torch.testing.assert_close(read("exported", output)(images), model(images))
    assert zipfile.is_zipfile(output)


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["{spec}", "--to", "exported", "--mode", "sparse", "-o", "{out}"], 1, "image by image"),
        (["{folder}", "--to", "exported", "-o", "{out}"], 2, "is no run folder"),
        (["{folder}", "--to", "exported", "-o", "{out}", "--set", "seed=1"], 2, "changes a SPEC"),
        (["{run}", "--to", "exported", "-o", "{out}"], 2, "cannot read the weights"),
        (["{spec}", "--to", "exported", "-o", "{folder}"], 2, "is a folder"),
        (["{spec}", "--to", "torchscript", "-o", "{out}"], 2, "torchscript"),
        (["{spec}", "--to", "onnx", "-o", "{out}", "--set", "stages.no.depth=1"], 1, "no stage"),
    ],
)
def test_verb_refuses(tmp_path, capsys, arguments: list[str], status: int, said: str):
    spec = tmp_path / "dynamic.yaml"
    spec.write_text(DYNAMIC)
    run = tmp_path / "run"
    run.mkdir()
    (run / "spec.resolved.yaml").write_text(DYNAMIC)
    places = {"spec": spec, "folder": tmp_path, "run": run, "out": tmp_path / "out"}
    assert main(["export", *(argument.format(**places) for argument in arguments)]) == status
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_aoti_runs_any_batch(tmp_path):
    spec = loads(DYNAMIC)
    model = make(spec)
    export = BACKENDS["aoti"]().export(spec, analyze(spec)[0], model, tmp_path / "network.pt2")
    assert export.difference <= 1e-4
    run = torch._inductor.aoti_load_package(str(export.path))
    images = torch.rand(7, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(run(images), model(images), atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_every_example(example: Path, tmp_path):
    spec = load(example)
    model = make(spec, size=64)
    images = torch.rand(7, *spec.input_shape)
    with torch.no_grad():
        # One capture for both: it takes as long as the rest.
        program = capture(model, images[:2])
        expected = {batch: model(images[:batch]) for batch in (1, 7)}
        with inference(model, mode="soft"):
            soft = model(images)
    scale = expected[7].abs().max().item()
    assert (expected[7] - expected[7][0]).abs().max() > 1e-3 * scale, "logits are constant"
    if any(True for _ in gates(model)):
        assert (expected[7] - soft).abs().max() > 1e-3 * scale, "no edge is closed"
    found: dict[str, float] = {}
    run = model
    for form in FORMS:
        path = tmp_path / f"network.{form}"
        backend = BACKENDS[form]()
        assert isinstance(backend, ExportBackend)
        backend.write(program, spec, path)
        run = read(form, path)
        with torch.no_grad():
            found[form] = max(
                (run(images[:batch]) - expected[batch]).abs().max().item() for batch in (1, 7)
            )
    with torch.no_grad():
        times = milliseconds(images[:1], model, run)  # onnxruntime's, which came last
    row = [example.stem, f"{scale:.2g}", *(f"{found[form]:.0e}" for form in FORMS)]
    row += [f"{each:.0f}" for each in times]
    print("|", " | ".join(row), "|", flush=True)  # noqa: T201
    assert max(found.values()) <= 1e-4 * scale


def milliseconds(images: torch.Tensor, *runs: Callable[[torch.Tensor], object]) -> list[float]:
    """Medians of the CPU time of a call; the runs take turns."""
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(ROUNDS + 1):
        for run, taken in zip(runs, times, strict=True):
            started = time.process_time()
            run(images)
            taken.append(1e3 * (time.process_time() - started))
    return [statistics.median(taken[1:]) for taken in times]
