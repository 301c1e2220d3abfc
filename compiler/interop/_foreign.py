"""What the blocks of other libraries have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from runtime.initialization import initialize_convolutions

Build = Callable[..., nn.Module]


def facts(**values: Any) -> Callable[[Build], Build]:
    """Says of a function what a block of ours says in class variables: `strides`, `divides`, ..."""

    def say(build: Build) -> Build:
        vars(build).update(values)
        return build

    return say


def initialize_like_resnet(block: nn.Module) -> nn.Module:
    """The block, its convolutions drawn from He's normal (fan-out), their biases 0."""
    initialize_convolutions(block)
    return _without_biases(block)


def initialize_like_convnext(block: nn.Module) -> nn.Module:
    """The block, its convolutions and linear layers drawn from a normal, their biases 0."""
    for layer in block.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
    return _without_biases(block)


def _without_biases(block: nn.Module) -> nn.Module:
    for layer in block.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
            nn.init.zeros_(layer.bias)
    return block
