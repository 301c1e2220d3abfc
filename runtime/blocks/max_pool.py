from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor, nn


class MaxPool(nn.Module):
    """Maximum of windows that do not overlap: as large as the stride, without padding.

    Source: VGG has it after every stage, with stride 2.
    Shape: (B, C, H, W) -> (B, C, H // stride, W // stride)
    """

    keeps_channels: ClassVar = True
    rounding: ClassVar[Literal["ceil", "floor"]] = "floor"

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(x)


BLOCK = MaxPool
