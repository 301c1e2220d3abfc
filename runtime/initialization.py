"""Initial weights that several reference implementations share."""

from __future__ import annotations

from typing import Literal

from torch import nn


def initialize_convolutions(
    module: nn.Module, mode: Literal["fan_in", "fan_out"] = "fan_out"
) -> None:
    """Draws the weights of every convolution in `module` from He's normal.

    Source: He et al. 2015, eqs. 10 and 14; torchvision's ResNet, VGG, MobileNetV2 and RegNet
    have fan-out, its DenseNet fan-in.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode=mode, nonlinearity="relu")


def initialize_linear(linear: nn.Linear, std: float) -> None:
    """Draws the weights from a normal of standard deviation `std`; biases are 0."""
    nn.init.normal_(linear.weight, 0.0, std)
    nn.init.zeros_(linear.bias)
