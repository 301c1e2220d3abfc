"""What timm's own tests/test_models.py asks of every model, for a few of ours."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

import compiler.interop.timm as interop
from compiler import compile
from graphspec import load

timm = pytest.importorskip("timm")
ROOT = Path(__file__).parents[2]
NAMES = ["small_routed", "small_random", "small_dense", "small_cells"]
SMALL = {
    "small_routed": ("dgnet_tiny", ["stages.layer1.depth=2", "stages.layer2.depth=5"]),
    "small_random": (
        "randwire_small",
        ["input_shape=[3,32,32]", "stem.width=8", "stages.*.width=8", "stages.*.depth=5"],
    ),
    "small_dense": ("dense_tiny", []),
    "small_cells": ("hand_drawn", []),
}
# Registered once a process: timm's registry has no way back.
for _name, (_example, _overrides) in SMALL.items():
    interop.register(_name, load(ROOT / "examples" / f"{_example}.yaml", _overrides))


def create(name: str, **options) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, **options)


def images(model: nn.Module, batch: int = 2, channels: int | None = None) -> torch.Tensor:
    shape = model.default_cfg["input_size"]
    return torch.randn(batch, channels or shape[0], *shape[1:])


def test_every_example_is_registered():
    stems = {path.stem for path in (ROOT / "examples").glob("*.yaml")}
    assert {name.removeprefix("graphc_") for name in interop.EXAMPLES} == stems
    assert set(timm.list_models(module="timm")) >= {*interop.EXAMPLES, *NAMES}
    assert "dgnet_resnet50" in interop.EXAMPLES
    # timm's own networks keep their names.
    assert "resnet50" not in interop.EXAMPLES
    assert "graphc_resnet50" in interop.EXAMPLES
    assert type(timm.create_model("resnet18")).__module__ == "timm.models.resnet"


def test_a_name_of_timm_is_refused():
    with pytest.raises(ValueError, match="timm has a model 'resnet50' already"):
        interop.register("resnet50", ROOT / "examples" / "resnet50.yaml")


@pytest.mark.parametrize("name", NAMES)
def test_forward_is_the_compiled_network(name: str):
    model = create(name)
    spec = load(ROOT / "examples" / f"{SMALL[name][0]}.yaml", SMALL[name][1])
    network = compile(spec)
    network.load_state_dict(model.state_dict())
    x = images(model)
    for training in (True, False):
        found, expected = model.train(training)(x), network.train(training)(x)
        assert found.shape == (2, model.num_classes)
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", NAMES)
def test_backward_reaches_every_parameter(name: str):
    model = create(name, num_classes=42).train()
    outputs = model(images(model))
    assert outputs.shape == (2, 42)
    outputs.mean().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", NAMES)
def test_default_configuration(name: str):
    model = create(name).eval()
    cfg, x = model.default_cfg, images(model)
    weights = model.state_dict()
    assert f"{cfg['classifier']}.weight" in weights
    assert f"{cfg['first_conv']}.weight" in weights
    features = model.forward_features(x)
    assert features.shape == (2, model.num_features, *cfg["pool_size"])
    torch.testing.assert_close(model.forward_head(features), model(x))
    pooled = model.forward_head(features, pre_logits=True)
    assert pooled.shape == (2, model.head_hidden_size)
    torch.testing.assert_close(model.get_classifier()(pooled), model(x))
    model.reset_classifier(0)
    assert isinstance(model.get_classifier(), nn.Identity)
    torch.testing.assert_close(model(x), pooled)
    model.reset_classifier(0, "")
    torch.testing.assert_close(model(x), features)
    model.reset_classifier(3, "avg")
    assert model(x).shape == (2, 3)
    assert model.get_classifier().weight.std() > 0
    with pytest.raises(ValueError, match="global_pool"):
        model.reset_classifier(3, "max")
    bare = create(name, num_classes=0, global_pool="").eval()
    assert bare(x).shape == features.shape
    assert create(name, num_classes=0).eval()(x).shape == pooled.shape


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("name", NAMES)
def test_channels_of_the_image(name: str, channels: int):
    model = create(name, in_chans=channels).eval()
    assert model(images(model, channels=channels)).shape == (2, model.num_classes)
    assert model.in_chans == channels


@pytest.mark.parametrize("name", NAMES)
def test_features_only(name: str):
    model = create(name, features_only=True).eval()
    x = images(model)
    found = model(x)
    assert len(found) == len(model.feature_info.channels()) >= 2
    described = zip(
        found, model.feature_info.channels(), model.feature_info.reduction(), strict=True
    )
    for features, channels, reduction in described:
        sizes = tuple(math.ceil(size / reduction) for size in x.shape[2:])
        assert features.shape == (2, channels, *sizes)
    last = create(name).eval().forward_features(x)
    torch.testing.assert_close(found[-1], last)


@pytest.mark.parametrize("name", NAMES)
def test_intermediates(name: str):
    model = create(name).eval()
    x = images(model)
    last, found = model.forward_intermediates(x)
    torch.testing.assert_close(last, model.forward_features(x))
    (first,) = model.forward_intermediates(x, indices=[0], intermediates_only=True)
    torch.testing.assert_close(first, found[0])
    before = sum(p.numel() for p in model.parameters())
    assert model.prune_intermediate_layers([0]) == [0]
    assert sum(p.numel() for p in model.parameters()) < before
    (pruned,) = model.forward_intermediates(x, indices=[0], intermediates_only=True)
    torch.testing.assert_close(pruned, first)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("training", [True, False])
def test_fx_feature_extraction(name: str, training: bool):
    from timm.models import create_feature_extractor, get_graph_node_names

    model = create(name)
    nodes = get_graph_node_names(model)[0 if training else 1]
    model.train(training)
    extractor = create_feature_extractor(model, [nodes[-1]]).train(training)
    x = images(model)
    torch.testing.assert_close(extractor(x)[nodes[-1]], model(x))


@pytest.mark.slow
@pytest.mark.parametrize("name", interop.EXAMPLES)
def test_every_example(name: str):
    """Shapes and names alone, on the meta device, at the example's own size."""
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=7, in_chans=4).eval()
        x = torch.empty(2, 4, *model.default_cfg["input_size"][1:])
        assert model(x).shape == (2, 7)
        features = model.forward_features(x)
        assert features.shape == (2, model.num_features, *model.default_cfg["pool_size"])
        model.reset_classifier(0)
        assert model(x).shape == (2, model.head_hidden_size)
        pyramid = timm.create_model(name, features_only=True, in_chans=1).eval()
        found = pyramid(x[:, :1])
    described = zip(
        found, pyramid.feature_info.channels(), pyramid.feature_info.reduction(), strict=True
    )
    for features, channels, reduction in described:
        assert features.shape[:2] == (2, channels)
        for size, pixels in zip(features.shape[2:], x.shape[2:], strict=True):
            assert pixels // reduction <= size <= math.ceil(pixels / reduction)


def test_weights_of_a_run_load(tmp_path):
    from safetensors.torch import save_file

    spec = load(ROOT / "examples" / "dgnet_tiny.yaml", SMALL["small_routed"][1])
    network = compile(spec)
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    model = create("small_routed", checkpoint_path=tmp_path / "weights.safetensors").eval()
    x = images(model)
    torch.testing.assert_close(model(x), network.eval()(x))


def test_parameters_have_groups():
    from timm.models import group_parameters

    model = create("small_routed")
    groups = group_parameters(model, model.group_matcher())
    grouped = [name for names in groups.values() for name in names]
    assert sorted(grouped) == sorted(name for name, _ in model.named_parameters())
    assert len(groups) == 4  # stem, two stages, head
