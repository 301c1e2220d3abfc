from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn

from runtime.initialization import initialize_convolutions
from runtime.parameter import Param


class SeparableConv(nn.Module):
    """ReLU, depthwise 3x3, pointwise 1x1, batch norm; nothing between the convolutions.

    Source: Xie et al. 2019 (RandWire), section 3.2.
    Shape: (B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride))
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        *,
        shortcut: Annotated[
            bool,
            Param("adds the input, projected where its shape differs; RandWire's nodes do not"),
        ] = False,
    ) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(
            in_channels, in_channels, 3, stride, 1, groups=in_channels, bias=False
        )
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)
        self.has_shortcut = shortcut
        self.downsample = None
        if shortcut and (stride != 1 or in_channels != out_channels):
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )
        initialize_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(self.pointwise(self.depthwise(torch.relu(x))))
        if self.has_shortcut:
            y += x if self.downsample is None else self.downsample(x)
        return y


BLOCK = SeparableConv
