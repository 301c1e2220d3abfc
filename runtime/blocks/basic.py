from __future__ import annotations

from typing import Annotated

import torch.nn.functional as F
from torch import Tensor, nn

from runtime.initialization import initialize_convolutions
from runtime.parameter import Param


class Basic(nn.Module):
    """Two 3x3 convolutions, the first with the stride, plus a shortcut.

    Source: He et al. 2016, figure 5 (left); torchvision's `BasicBlock`.
    Shape: (B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride))
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        *,
        shortcut: Annotated[
            bool, Param("adds the input, projected where its shape differs; false: neither")
        ] = True,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.has_shortcut = shortcut
        self.downsample = None
        if shortcut and (stride != 1 or in_channels != out_channels):
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )
        initialize_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        if self.has_shortcut:
            y += x if self.downsample is None else self.downsample(x)
        return F.relu(y, inplace=True)


BLOCK = Basic
