"""Detectors on the same weights as torchvision's."""

from __future__ import annotations

import pytest
import torch
from torchvision import models
from torchvision.models.detection import fasterrcnn_resnet50_fpn

from compiler import compile
from compiler.paper import example
from compiler.training.detector import detector
from compiler.training.recipes import load_recipe
from compiler.transfer import import_weights
from graphspec import load
from runtime.training.folders import IMAGENET

pytestmark = pytest.mark.parity


def test_the_detector_of_coco_1x_is_torchvisions():
    backbone = models.resnet50()
    sizes = {"min_size": 160, "max_size": 224}
    theirs = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, **sizes).eval()
    theirs.backbone.body.load_state_dict(backbone.state_dict(), strict=False)
    spec = load(example("resnet50"))
    network = compile(spec)
    import_weights(network, spec, backbone.state_dict())
    overrides = [f"detection.{name}={value}" for name, value in sizes.items()]
    recipe = load_recipe("coco_1x", overrides).detection
    ours = detector(network, spec, recipe, 90, IMAGENET).eval()
    others = {k: v for k, v in theirs.state_dict().items() if not k.startswith("backbone.body.")}
    missing, unexpected = ours.load_state_dict(others, strict=False)
    assert not unexpected
    assert all(name.startswith("backbone.body.") for name in missing)

    images = [torch.rand(3, 150, 200), torch.rand(3, 120, 90)]
    with torch.inference_mode():
        pairs = list(zip(ours(images), theirs(images), strict=True))
    assert sum(len(found["boxes"]) for found, _ in pairs) > 10
    for found, wanted in pairs:
        assert found["labels"].tolist() == wanted["labels"].tolist()
        torch.testing.assert_close(found["boxes"], wanted["boxes"], atol=1e-2, rtol=1e-3)
        torch.testing.assert_close(found["scores"], wanted["scores"], atol=1e-4, rtol=1e-3)
