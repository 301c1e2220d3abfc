from __future__ import annotations

from typing import Annotated, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from runtime.initialization import initialize_convolutions
from runtime.parameter import Param


class Bottleneck(nn.Module):
    """1x1, 3x3 with the stride, 1x1 convolution, plus a shortcut.

    Source: He et al. 2016, figure 5 (right), with the stride in the 3x3 ("v1.5"); ResNeXt has
    `groups`, Wide ResNet a `base_width` of 128; torchvision's `Bottleneck`.
    Shape: (B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride))
    """

    divides: ClassVar = {"expansion": ("out_channels",)}

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        *,
        expansion: Annotated[int, Param("output channels over those of the 3x3", ge=1)] = 4,
        groups: Annotated[int, Param("groups of the 3x3; ResNeXt: cardinality", ge=1)] = 1,
        base_width: Annotated[
            int, Param("channels of a group where the stage has 64 * expansion", ge=1)
        ] = 64,
        shortcut: Annotated[
            bool, Param("adds the input, projected where its shape differs; false: neither")
        ] = True,
    ) -> None:
        super().__init__()
        hidden = max(1, int(out_channels // expansion * (base_width / 64))) * groups
        self.conv1 = nn.Conv2d(in_channels, hidden, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.conv2 = nn.Conv2d(hidden, hidden, 3, stride, 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.conv3 = nn.Conv2d(hidden, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
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
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.bn3(self.conv3(y))
        if self.has_shortcut:
            y += x if self.downsample is None else self.downsample(x)
        return F.relu(y, inplace=True)


BLOCK = Bottleneck
