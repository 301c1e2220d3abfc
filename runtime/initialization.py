"""Initial weights that several reference implementations share."""

from __future__ import annotations

from torch import nn


def initialize_convolutions(module: nn.Module) -> None:
    """Draws the weights of every convolution in `module` from He's normal by fan-out.

    Source: He et al. 2015, eq. 14; torchvision's ResNet, VGG, MobileNetV2 and RegNet.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")


def initialize_linear(linear: nn.Linear, std: float) -> None:
    """Draws the weights from a normal of standard deviation `std`; biases are 0."""
    nn.init.normal_(linear.weight, 0.0, std)
    nn.init.zeros_(linear.bias)
