from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from runtime.initialization import initialize_convolutions


class RandWireStem(nn.Module):
    """Two plain 3x3 convolutions of stride 2, the first of half the width.

    The second ends in batch norm: the nodes that read it begin with ReLU.

    Source: Xie et al. 2019 (RandWire), table 1, conv1 and conv2 of the small regime.
    Shape: (B, in_channels, H, W) -> (B, out_channels, ceil(H / 4), ceil(W / 4))
    """

    strides: ClassVar = (4,)

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        half = max(1, out_channels // 2)
        self.conv1 = nn.Conv2d(in_channels, half, 3, stride // 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = nn.Conv2d(half, out_channels, 3, 2, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        initialize_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return self.bn2(self.conv2(y))


STEM = RandWireStem
