"""Weights cross over: there and back, and from a static network into its dynamic twin."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from compiler import compile
from compiler.transfer import WeightsError, export_weights, import_weights, read_weights
from graphspec import load, loads
from tests.parity.networks import EXAMPLES, PUBLISHED, randomise

QUICK = ("resnet18", "mobilenet_v2", "regnet_y_800mf", "regnety_006", "densenet121")


def example(name: str, *overrides: str):
    return load(EXAMPLES / f"{name}.yaml", overrides)


def round_trip(name: str) -> None:
    published = PUBLISHED[name]
    reference, spec = published.build_reference(), published.spec()
    randomise(reference, seed=0)
    before = {key: tensor.clone() for key, tensor in reference.state_dict().items()}
    model = compile(spec)
    import_weights(model, spec, before)
    if published.arguments:
        return  # export needs the reference's name alone

    exported = export_weights(model, spec, published.reference)

    assert list(exported) == list(before)
    assert all(torch.equal(exported[key], before[key]) for key in before)
    for parameter in reference.parameters():
        nn.init.zeros_(parameter)
    reference.load_state_dict(exported, strict=True)
    assert all(torch.equal(t, before[key]) for key, t in reference.state_dict().items())


@pytest.mark.parametrize("name", QUICK)
def test_round_trip_is_bit_identical(name: str):
    round_trip(name)


@pytest.mark.parity
@pytest.mark.parametrize("name", [name for name in PUBLISHED if name not in QUICK])
def test_every_round_trip_is_bit_identical(name: str):
    round_trip(name)


def test_a_reference_is_a_library_model_or_a_file(tmp_path: Path):
    from safetensors.torch import save_file

    spec = example("resnet18")
    tensors = read_weights("torchvision:resnet18")
    save_file(tensors, tmp_path / "weights.safetensors")
    torch.save(tensors, tmp_path / "weights.pt")
    torch.save({"state_dict": tensors, "epoch": 3}, tmp_path / "checkpoint.pth")
    for file in ("weights.safetensors", "weights.pt", "checkpoint.pth"):
        model = compile(spec)
        assert len(import_weights(model, spec, tmp_path / file).copied) == len(tensors)
        assert torch.equal(model.state_dict()["head.fc.weight"], tensors["fc.weight"])


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("torchvision:resnet19", "torchvision has no model 'resnet19'"),
        ("timm:regnetx_007", "timm has no model 'regnetx_007'"),
        ("keras:resnet50", "there is no file keras:resnet50"),
        ("torchvision:alexnet", "VGG with batch norm of torchvision has no such part"),
        ("torchvision:squeezenet1_0", "of no known family"),
        ("torchvision:mobilenet_v2", "stem is of kind 'imagenet'; MobileNetV2 of torchvision"),
    ],
)
def test_a_reference_that_cannot_be_is_an_error(reference: str, message: str):
    spec = example("resnet18")
    with pytest.raises(WeightsError, match=message):
        import_weights(compile(spec, device="meta"), spec, reference)


def test_a_file_without_tensors_is_an_error(tmp_path: Path):
    (tmp_path / "notes.pt").write_text("no tensors")
    (tmp_path / "notes.safetensors").write_text("no tensors")
    torch.save({"epoch": 3}, tmp_path / "epoch.pt")
    for file, message in {
        "notes.pt": "holds no tensors that can be read",
        "notes.safetensors": "holds no tensors that can be read",
        "epoch.pt": "holds no state_dict",
        "absent.pt": "there is no file",
    }.items():
        with pytest.raises(WeightsError, match=message):
            read_weights(tmp_path / file)


def test_what_does_not_fit_is_named_and_nothing_is_copied():
    spec = example("resnet18")
    tensors = read_weights("torchvision:resnet18")
    del tensors["layer2.1.bn1.weight"]
    tensors["layer3.5.conv1.weight"] = torch.zeros(1)
    tensors["fc.weight"] = torch.zeros(10, 512)
    model = compile(spec)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    with pytest.raises(WeightsError) as caught:
        import_weights(model, spec, tensors)

    message = str(caught.value)
    assert "missing in the reference:\n  layer2.1.bn1.weight (for layer2.n2.bn1.weight)" in message
    assert "left over in the reference:\n  layer3.5.conv1.weight" in message
    assert "head.fc.weight is 1000x512, fc.weight is 10x512" in message
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_a_static_network_takes_no_projection_that_it_has_no_place_for():
    spec = example("resnet18", "stage_defaults.block.shortcut=false")
    transfer = import_weights(compile(spec), spec, "torchvision:resnet18")
    assert {name.partition(".downsample")[0] for name in transfer.unused} == {
        "layer2.0",
        "layer3.0",
        "layer4.0",
    }


def test_checkpoints_with_old_names_load():
    spec = example("densenet121")
    new = read_weights("torchvision:densenet121")
    old = {
        name.replace("norm1", "norm.1")
        .replace("conv1", "conv.1")
        .replace("norm2", "norm.2")
        .replace("conv2", "conv.2"): tensor
        for name, tensor in new.items()
        if not name.endswith("num_batches_tracked")
    }
    model = compile(spec)
    assert len(import_weights(model, spec, old).copied) == len(old)
    assert torch.equal(
        model.state_dict()["stage2.n3.conv2.weight"],
        new["features.denseblock2.denselayer3.conv2.weight"],
    )


def test_export_refuses_another_network():
    spec = example("resnet18")
    with pytest.raises(WeightsError, match=r"left over in the reference:\n  layer1\.2\.conv1"):
        export_weights(compile(spec, device="meta"), spec, "torchvision:resnet34")
    spec = example("dgnet_resnet18")
    with pytest.raises(WeightsError, match=r"only static networks can be exported(.|\n)*threshold"):
        export_weights(compile(spec, device="meta"), spec, "torchvision:resnet18")


def test_a_dynamic_network_starts_from_its_static_twin():
    spec = example("dgnet_resnet50")
    tensors = read_weights("torchvision:resnet50")
    model = compile(spec)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    transfer = import_weights(model, spec, tensors)

    after = model.state_dict()
    for ours, theirs in {
        "stem.conv1": "conv1",
        "layer1.n2.conv2": "layer1.1.conv2",
        "layer2.input.conv1": "layer2.0.conv1",
        "layer2.input.downsample.0": "layer2.0.downsample.0",
        "layer2.n1.conv3": "layer2.1.conv3",
        "layer3.n5.bn2": "layer3.5.bn2",
        "head.fc": "fc",
    }.items():
        assert torch.equal(after[f"{ours}.weight"], tensors[f"{theirs}.weight"]), ours
    assert all(torch.equal(after[name], before[name]) for name in transfer.fresh)
    parts = {".".join(name.split(".")[:2]) for name in transfer.fresh}
    stages = ("layer1", "layer2", "layer3", "layer4")
    routing = {f"{stage}.{part}" for stage, part in itertools.product(stages, ROUTING)}
    # ResNet's first block changes 64 channels into 256; here the input node has done so.
    assert parts == {"layer1.input", "layer1.n1", *routing}
    assert {name.split(".")[1] for name in transfer.unused} == {"0"}
    assert {name.split(".")[0] for name in transfer.unused} == {"layer1"}
    assert "fresh: layer1.n1 (18 tensors)" in transfer.summary()
    assert "not copied: layer1.0.downsample.0 (1 tensor)" in transfer.summary()


ROUTING = ("threshold", "router")


@pytest.mark.parametrize(
    "name",
    [
        *("mobilenet_v2", "resnet18", "resnext50_32x4d"),
        *("regnetx_006", "regnetx_016", "regnety_006"),
    ],
)
@pytest.mark.parametrize("prefix", ["dgnet", "alpha"])
def test_every_dynamic_example_starts_from_its_static_twin(name: str, prefix: str):
    spec = example(f"{prefix}_{name}")
    model = compile(spec)
    transfer = import_weights(model, spec, PUBLISHED[name].reference)
    assert {*transfer.copied, *transfer.fresh} == model.state_dict().keys()
    blocks = {name.split(".")[1] for name in transfer.fresh}
    assert blocks <= {"threshold", "router", "aggregate", "input", "n1"}


def test_a_twin_that_was_trained_here_is_a_reference_too():
    static, dynamic = example("resnet18"), example("dgnet_resnet18")
    ours, model = compile(static), compile(dynamic)
    from_here = import_weights(model, dynamic, ours.state_dict())
    from_torchvision = import_weights(model, dynamic, export_weights(ours, static, RESNET18))
    assert from_here.copied.keys() == from_torchvision.copied.keys()
    assert from_here.fresh == from_torchvision.fresh

    again = compile(dynamic)
    assert import_weights(again, dynamic, model.state_dict()).fresh == ()


def test_other_edge_weights_on_one_graph_take_all_but_those():
    learned, routed = example("alpha_resnet18"), example("dgnet_resnet18")
    ours, model = compile(learned), compile(routed)
    transfer = import_weights(model, routed, ours.state_dict())
    taken, given = model.state_dict(), ours.state_dict()
    assert {"layer1.input.conv.weight", "layer2.input.conv1.weight"} <= transfer.copied.keys()
    assert all(torch.equal(taken[name], given[name]) for name in transfer.copied)
    assert {name.split(".")[1] for name in transfer.fresh} == {"threshold", "router"}
    assert {name.split(".")[1] for name in transfer.unused} == {"aggregate"}


RESNET18 = "torchvision:resnet18"


def test_a_warm_started_network_runs_and_trains():
    torch.manual_seed(0)
    spec = example("dgnet_resnet50", "input_shape=[3, 64, 64]", "head.num_classes=4")
    model = compile(spec)
    tensors = read_weights("torchvision:resnet50")
    tensors |= {name: tensors[name][:4] for name in ("fc.weight", "fc.bias")}
    import_weights(model, spec, tensors)
    x, y = torch.randn(8, 3, 64, 64), torch.arange(8) % 4
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    losses: list[Tensor] = []
    for _ in range(5):
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())

    assert losses[-1] < 0.9 * losses[0]
    assert all(p.grad is not None for p in model.parameters())
    assert model.eval()(x).isfinite().all()


def assert_open_routes_are_fixed_weights(name: str) -> None:
    """Routers that say sigmoid(40) whatever they see, and no threshold: every edge weighs 1."""
    overrides = ("input_shape=[3, 64, 64]", "head.num_classes=10")
    open_routes = "edge_weights={kind: routed, bias_init: 40, threshold: null}"
    dynamic = example(f"dgnet_{name}", *overrides, f"stage_defaults.{open_routes}")
    fixed = example(f"dgnet_{name}", *overrides, "stage_defaults.edge_weights=fixed")
    torch.manual_seed(0)
    model, twin = compile(dynamic).double(), compile(fixed).double()
    tensors = model.state_dict()
    for name in tensors:
        if ".router." in name and name.endswith(".weight"):
            nn.init.zeros_(tensors[name])
    twin.load_state_dict({name: tensors[name] for name in twin.state_dict()}, strict=True)
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    for training in (True, False):
        # Dropout draws the same mask in both.
        torch.manual_seed(1)
        ours = model.train(training)(x)
        torch.manual_seed(1)
        theirs = twin.train(training)(x)
        scale = theirs.detach().abs().max().item()
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9 * scale)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_open_routes_are_fixed_weights(name: str):
    assert_open_routes_are_fixed_weights(name)


@pytest.mark.parity
@pytest.mark.parametrize(
    "name",
    [
        *("resnet50", "resnet101", "resnext50_32x4d"),
        *("regnetx_006", "regnetx_016", "regnety_006"),
    ],
)
def test_open_routes_are_fixed_weights_in_every_dynamic_example(name: str):
    assert_open_routes_are_fixed_weights(name)


@pytest.mark.parametrize("threshold", ["null", "0.0"])
def test_initial_weights_of_routed_edges_are_those_of_eq_4(threshold: str):
    torch.manual_seed(0)
    setting = f"{{kind: routed, bias_init: 3.0, threshold: {threshold}}}"
    spec = example("dgnet_digits", f"stage_defaults.edge_weights={setting}")
    model = compile(spec)
    seen: list[Tensor] = []
    for name, module in model.named_modules():
        if ".router." in name and name.count(".") == 2:
            module.register_forward_hook(lambda _m, _a, scores: seen.append(scores))
    model(torch.rand(2, 1, 8, 8))
    scores = torch.cat([s.flatten() for s in seen])
    expected = torch.tensor(3.0).sigmoid()
    assert len(seen) == 8
    torch.testing.assert_close(scores, expected.expand_as(scores), rtol=0, atol=0.02)


def test_a_spec_of_ones_own_needs_rules_that_exist():
    spec = loads(
        """
version: 1
name: mixed
input_shape: [3, 64, 64]
stem: {kind: imagenet, width: 64, stride: 4}
stages:
  - {name: layer1, depth: 1, width: 64, wiring: chain, block: separable_conv}
head: {kind: pooled_linear, num_classes: 1000}
"""
    )
    with pytest.raises(WeightsError, match=r"layer1\.n1 is of kind 'separable_conv'"):
        import_weights(compile(spec), spec, "torchvision:resnet18")


def test_weights_saved_from_within_ddp_are_taken():
    spec = example("resnet18")
    theirs = read_weights("torchvision:resnet18")
    model = compile(spec)

    import_weights(model, spec, {f"module.{name}": tensor for name, tensor in theirs.items()})

    assert torch.equal(model.state_dict()["head.fc.weight"], theirs["fc.weight"])
