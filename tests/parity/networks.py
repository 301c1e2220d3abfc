"""The networks that others published and implemented, and how they are written here."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from graphspec import NetworkSpec, load

EXAMPLES = Path(__file__).parents[2] / "examples"


@dataclass(frozen=True)
class Published:
    """A reference implementation, and the example (with overrides) that is the same network."""

    reference: str
    example: str
    overrides: tuple[str, ...] = ()
    arguments: dict[str, Any] = field(default_factory=dict)

    def spec(self) -> NetworkSpec:
        return load(EXAMPLES / f"{self.example}.yaml", self.overrides)

    def build_reference(self) -> nn.Module:
        library, _, name = self.reference.partition(":")
        if library == "timm":
            import timm

            return timm.create_model(name, pretrained=False)
        from torchvision import models

        return models.get_model(name, weights=None, **self.arguments)


def _of_torchvision(name: str) -> Published:
    return Published(f"torchvision:{name}", name)


IN_EXAMPLES = {
    "resnet18": _of_torchvision("resnet18"),
    "resnet50": _of_torchvision("resnet50"),
    "resnet101": _of_torchvision("resnet101"),
    "resnext50_32x4d": _of_torchvision("resnext50_32x4d"),
    "mobilenet_v2": _of_torchvision("mobilenet_v2"),
    "vgg16_bn": _of_torchvision("vgg16_bn"),
    "densenet121": _of_torchvision("densenet121"),
    "regnetx_006": Published("timm:regnetx_006", "regnetx_006"),
    "regnetx_016": Published("timm:regnetx_016", "regnetx_016"),
    "regnety_006": Published("timm:regnety_006", "regnety_006"),
}


def _mobilenet_v2(factor: float, stem: int, widths: tuple[int, ...], head: int) -> Published:
    return Published(
        "torchvision:mobilenet_v2",
        "mobilenet_v2",
        (
            f"stem.width={stem}",
            *(f"stages.stage{i}.width={width}" for i, width in enumerate(widths, start=1)),
            f"head.width={head}",
        ),
        {"width_mult": factor},
    )


BY_OVERRIDES = {
    "wide_resnet50_2": Published(
        "torchvision:wide_resnet50_2", "resnet50", ("stage_defaults.block.base_width=128",)
    ),
    "resnext101_32x8d": Published(
        "torchvision:resnext101_32x8d",
        "resnext50_32x4d",
        ("stages.layer3.depth=23", "stage_defaults.block.base_width=8"),
    ),
    "resnet34": Published(
        "torchvision:resnet34",
        "resnet18",
        (
            "stages.layer1.depth=3",
            "stages.layer2.depth=4",
            "stages.layer3.depth=6",
            "stages.layer4.depth=3",
        ),
    ),
    "densenet169": Published(
        "torchvision:densenet169",
        "densenet121",
        (
            "stages.stage3.depth=32",
            "stages.stage3.output_node.width=640",
            "stages.stage4.depth=32",
        ),
    ),
    "mobilenet_v2_050": _mobilenet_v2(0.5, 16, (8, 16, 16, 32, 48, 80, 160), 1280),
    "mobilenet_v2_140": _mobilenet_v2(1.4, 48, (24, 32, 48, 88, 136, 224, 448), 1792),
    "regnet_x_1_6gf": Published("torchvision:regnet_x_1_6gf", "regnetx_016"),
    "regnet_y_800mf": Published(
        "torchvision:regnet_y_800mf",
        "regnety_006",
        (
            "stages.stage1.width=64",
            "stages.stage2.width=144",
            "stages.stage3={width: 320, depth: 8}",
            "stages.stage4={width: 784, depth: 2}",
        ),
    ),
    "vgg11_bn": Published(
        "torchvision:vgg11_bn",
        "vgg16_bn",
        (
            "stages.stage1.depth=1",
            "stages.stage2.depth=1",
            "stages.stage3.depth=2",
            "stages.stage4.depth=2",
            "stages.stage5.depth=2",
        ),
    ),
}
PUBLISHED = IN_EXAMPLES | BY_OVERRIDES


def randomise(model: nn.Module, seed: int) -> None:
    """Gives batch norms statistics and affine parameters that training might have left."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            with torch.no_grad():
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.normal_(0, 0.1, generator=generator)
