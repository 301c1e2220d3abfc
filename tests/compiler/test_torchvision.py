from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torchvision import models

from compiler import analyze, compile
from compiler.features import Level, levels, pyramid
from compiler.interop import torchvision as interop
from graphspec import load

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))


def routed():
    return load(
        ROOT / "examples" / "dgnet_tiny.yaml",
        ["stages.layer1.depth=2", "stages.layer1.stride=2", "stages.layer2.depth=5"],
    )


def test_levels_of_a_known_network():
    graph, _ = analyze(load(ROOT / "examples" / "dgnet_resnet50.yaml"))
    assert levels(graph) == (
        Level("stem", 64, 4),
        Level("layer1", 256, 4),
        Level("layer2", 512, 8),
        Level("layer3", 1024, 16),
        Level("layer4", 2048, 32),
    )
    assert pyramid(graph) == levels(graph)[1:]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_levels_agree_with_the_inferred_shapes(example: Path):
    graph, _ = analyze(load(example))
    stages = {stage.name: stage.nodes[-1].out_shape for stage in graph.stages}
    stages["stem"] = graph.stem_shape
    for level in levels(graph):
        channels, height, _ = stages[level.name] or (0, 0, 0)
        assert level.channels == channels
        image = graph.input_shape[1]
        assert image // level.stride <= height <= -(-image // level.stride)


def test_backbone():
    spec = routed()
    network = compile(spec).eval()
    body = interop.features_only(network, ["layer1", "layer2"])
    x = torch.rand(2, 3, 40, 48)
    found = body(x)
    assert {name: t.shape[1:] for name, t in found.items()} == {
        "layer1": (16, 20, 24),
        "layer2": (32, 10, 12),
    }
    torch.testing.assert_close(network.get_submodule("head")(found["layer2"]), network(x))
    assert not [name for name, _ in body.named_parameters() if name.startswith("head")]
    assert body.get_parameter("layer1.n1.conv1.weight") is network.get_parameter(
        "layer1.n1.conv1.weight"
    )
    maps = interop.build_backbone(spec, out_channels=24)(x)
    assert {name: t.shape[1:] for name, t in maps.items()} == {
        "layer1": (24, 20, 24),
        "layer2": (24, 10, 12),
        "pool": (24, 5, 6),
    }


@pytest.mark.parametrize(
    ("stages", "said"),
    [(["layer9"], "no stage 'layer9'"), (["layer2", "layer1"], "growing stride"), ([], "growing")],
)
def test_backbone_refuses(stages: list[str], said: str):
    with pytest.raises(ValueError, match=said):
        interop.build_backbone(routed(), stages=stages)


def test_detector_trains_and_detects():
    torch.manual_seed(0)
    detector = interop.build_detector(
        routed(), 4, out_channels=16, min_size=48, max_size=64, rpn_post_nms_top_n_train=50
    )
    images = [torch.rand(3, 48, 64), torch.rand(3, 40, 40)]
    boxes = torch.tensor([[4.0, 4.0, 36.0, 36.0]])
    targets = [{"boxes": boxes, "labels": torch.tensor([label])} for label in (1, 3)]
    losses = detector(images, targets)
    assert set(losses) == {
        "loss_classifier",
        "loss_box_reg",
        "loss_objectness",
        "loss_rpn_box_reg",
    }
    sum(losses.values()).backward()
    gradients = {name: p.grad for name, p in detector.backbone.named_parameters()}
    assert [name for name, gradient in gradients.items() if gradient is None] == []
    routers = {name: gradient for name, gradient in gradients.items() if ".router." in name}
    assert routers
    assert all(gradient.abs().sum() > 0 for gradient in routers.values())
    optimizer = torch.optim.SGD(detector.parameters(), lr=0.02)
    history: list[float] = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = sum(detector(images, targets).values())
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < history[0]
    found = detector.eval()(images)
    assert [set(result) for result in found] == [{"boxes", "labels", "scores"}] * 2


def test_registry():
    names = interop.register()
    assert interop.register() == names
    assert {name.removeprefix("graphc_") for name in names} == {path.stem for path in EXAMPLES}
    assert set(names) <= set(models.list_models())
    assert {"dgnet_resnet50", "graphc_resnet50"} <= set(names)
    assert type(models.get_model("resnet18")).__name__ == "ResNet"
    model = models.get_model("dgnet_tiny", num_classes=3)
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 3)
    with pytest.raises(ValueError, match="no weights"):
        models.get_model("dgnet_tiny", weights="DEFAULT")
