"""Blocks of timm and torchvision as nodes: checked, counted, trained and written like ours."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from compiler import analyze, catalog, compile, count
from compiler.cli import main
from compiler.fx_passes import fold_batch_norm, open_shares, specialise
from graphspec import load, loads
from runtime.gating import inference
from runtime.sparse import sparse

pytest.importorskip("timm")
DYNAMIC = """\
version: 1
name: mixed
input_shape: [3, 32, 32]
stem: {kind: conv_bn_relu, width: 16}
stages:
  - name: layer1
    depth: 3
    width: 16
    block: {kind: timm_inverted_residual, expansion: 3, se_ratio: 0.25, shortcut: false}
    input_node: {kind: conv_bn_relu, kernel: 1}
    wiring: complete
    edge_weights: {kind: routed, bias_init: 0.0, threshold: 0.5}
    nodes:
      n2: {kind: torchvision_mbconv, expansion: 2}
  - name: layer2
    depth: 2
    width: 32
    stride: 2
    wiring: chain
    block: {kind: timm_bottleneck, cardinality: 4, base_width: 16, attention: se}
  - {name: layer3, depth: 2, width: 32, wiring: residual, block: timm_convnext}
head: {kind: pooled_linear, num_classes: 5}
"""
RESNET18 = """\
version: 1
name: resnet18_of_timm
input_shape: [3, 64, 64]
stem: {kind: imagenet, width: 64, stride: 4}
stage_defaults: {wiring: chain, block: timm_basic, depth: 2}
stages:
  - {name: layer1, width: 64}
  - {name: layer2, width: 128, stride: 2}
  - {name: layer3, width: 256, stride: 2}
  - {name: layer4, width: 512, stride: 2}
head: {kind: pooled_linear, num_classes: 10}
"""


def mixed(seed: int = 0):
    """The network with statistics of a batch, and with edges that are closed."""
    torch.manual_seed(seed)
    model = compile(loads(DYNAMIC))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".router." in name:
                parameter.normal_(0, 1)
    model(torch.randn(8, 3, 32, 32))
    return model


def test_a_resnet18_of_timm_blocks_is_timms():
    import timm

    torch.manual_seed(0)
    theirs = timm.create_model("resnet18", num_classes=10).eval()
    ours = compile(loads(RESNET18)).eval()
    for number in range(1, 5):
        stage = getattr(theirs, f"layer{number}").state_dict()
        stage = {f"n{int(key[0]) + 1}{key[1:]}": tensor for key, tensor in stage.items()}
        missing, unexpected = ours.get_submodule(f"layer{number}").load_state_dict(stage)
        assert not missing and not unexpected
    x = torch.randn(2, 64, 16, 16)
    expected = x
    with torch.no_grad():
        for number in range(1, 5):
            x = ours.get_submodule(f"layer{number}")(x)
            expected = getattr(theirs, f"layer{number}")(expected)
            torch.testing.assert_close(x, expected, rtol=0, atol=0)
    assert sum(p.numel() for p in theirs.parameters()) == count(loads(RESNET18)).params


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("kind", "params", "name", "stages"),
    [
        ("timm_bottleneck", {"cardinality": 32, "base_width": 4}, "resnext50_32x4d", "layer2"),
        ("timm_regnet", {"group_width": 16, "se_ratio": 0.25}, "regnety_006", "s3"),
        ("timm_convnext", {}, "convnext_tiny", "stages.2.blocks"),
    ],
)
def test_a_block_is_that_of_timms_networks(kind, params, name, stages, stride):
    """The second block of a stage, and the first: of stride 2, or of one channel count."""
    import timm

    with torch.device("meta"):
        network = timm.create_model(name)
        stage = list(network.get_submodule(stages).children())
        block = stage[0 if stride == 2 else 1]
        if kind == "timm_convnext" and stride == 2:
            pytest.skip("a ConvNeXt block has stride 1")
        in_channels, *_ = (m.in_channels for m in block.modules() if hasattr(m, "in_channels"))
        sizes = [m.out_channels for m in stage[1].modules() if hasattr(m, "out_channels")]
        out_channels = in_channels if kind == "timm_convnext" else max(sizes)
        build = catalog.constructors("blocks")[kind]
        ours = build(in_channels, out_channels, stride, **params)
    assert type(ours) is type(block)
    shapes = {key: tensor.shape for key, tensor in block.state_dict().items()}
    assert {key: tensor.shape for key, tensor in ours.state_dict().items()} == shapes


def test_keys_and_gradients():
    model = mixed().train()
    keys = list(model.state_dict())
    assert "layer1.n1.conv_pwl.weight" in keys
    assert "layer1.n2.block.0.0.weight" in keys
    assert "layer2.n1.se.fc1.weight" in keys
    model(torch.randn(2, 3, 32, 32)).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_costs_are_those_of_torchs_counter():
    spec = loads(DYNAMIC)
    model = compile(spec).eval()
    cost = count(spec)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.randn(1, 3, 32, 32))
    convolutions = counter.get_flop_counts()["Global"][torch.ops.aten.convolution] // 2
    assert cost.conv_macs == convolutions
    assert cost.params == sum(p.numel() for p in model.parameters())


def test_every_inference_mode_agrees():
    model = mixed().eval()
    x = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        masked = model(x)
        with inference(model, mode="soft"):
            assert (model(x) - masked).abs().max() > 1e-4, "no edge is closed"
        torch.testing.assert_close(sparse(model)(x), masked, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(fold_batch_norm(model)(x), masked, rtol=1e-3, atol=1e-4)


def test_specialised_networks_keep_their_blocks():
    graph, _ = analyze(loads(DYNAMIC))
    model = mixed().eval()
    x = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        found = specialise(model, graph, open_shares(model, [x]))
        torch.testing.assert_close(found.model(x), model(x), rtol=1e-4, atol=1e-5)


def test_check_needs_neither_torch_nor_timm(tmp_path):
    path = tmp_path / "mixed.yaml"
    path.write_text(DYNAMIC)
    code = """
import sys
from compiler.cli import main
status = main(sys.argv[1:])
assert not {"torch", "timm", "torchvision"} & set(sys.modules)
sys.exit(status)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, "check", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "ok, 3 stages" in done.stdout


def test_a_missing_library_is_a_finding(tmp_path, monkeypatch, capsys):
    path = tmp_path / "mixed.yaml"
    path.write_text(DYNAMIC)
    monkeypatch.setattr(catalog, "find_spec", lambda name: None if name == "timm" else find_spec)
    assert main(["check", str(path)]) == 0
    assert main(["count", str(path)]) == 1
    error = capsys.readouterr().err
    assert "error[library-missing]: stages[0]" in error
    assert "pip install 'graphc-nn[timm]'" in error


def test_emitted_source_is_refused(tmp_path, capsys):
    path = tmp_path / "mixed.yaml"
    path.write_text(DYNAMIC)
    folder = tmp_path / "out"
    assert main(["compile", str(path), "--emit", "source", "-o", str(folder)]) == 1
    error = capsys.readouterr().err
    assert "layer1.n1 is a timm_inverted_residual" in error
    assert "graphc export --to exported" in error
    assert not (folder / "network.py").exists()


@pytest.mark.slow
def test_a_saved_network_needs_the_library_but_not_the_compiler(tmp_path):
    model, x = mixed().eval(), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
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
    command = [sys.executable, "-c", code, str(tmp_path / "model.pt")]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("form", ["exported", "onnx"])
def test_exports_need_no_library(form: str, tmp_path):
    from compiler.backends import BACKENDS

    spec = loads(DYNAMIC)
    paths = BACKENDS[form]().emit(spec, analyze(spec)[0], mixed().eval(), tmp_path)
    assert paths[0].is_file()
    if form == "onnx":
        return
    code = """
import sys
for name in ("graphspec", "compiler", "runtime", "timm", "torchvision"):
    sys.modules[name] = None
import torch
print(tuple(torch.export.load(sys.argv[1]).module()(torch.rand(4, 3, 32, 32)).shape))
"""
    command = [sys.executable, "-c", code, str(paths[0])]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stdout == "(4, 5)\n", done.stderr


def test_resolved_specs_load_again(tmp_path):
    from graphspec import dump, resolve

    path = tmp_path / "resolved.yaml"
    path.write_text(dump(resolve(loads(DYNAMIC))))
    assert analyze(load(path))[0] == analyze(loads(DYNAMIC))[0]
