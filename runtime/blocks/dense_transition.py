from __future__ import annotations

from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from runtime.initialization import initialize_convolutions


class DenseTransition(nn.Module):
    """Batch norm, ReLU, 1x1, average pooling: what lies between two DenseNet stages.

    Source: Huang et al. 2017 (DenseNet), section 3; torchvision's `_Transition`.
    Shape: (B, in_channels, H, W) -> (B, out_channels, H // stride, W // stride)
    """

    rounding: ClassVar[Literal["ceil", "floor"]] = "floor"

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(in_channels)
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.pool = nn.AvgPool2d(stride)
        initialize_convolutions(self, "fan_in")

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.conv(F.relu(self.norm(x), inplace=True)))


BLOCK = DenseTransition
