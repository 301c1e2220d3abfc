from __future__ import annotations

from collections import OrderedDict
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from runtime.initialization import initialize_convolutions
from runtime.parameter import Param


def _conv_bn(
    in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    return [
        nn.Conv2d(
            in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False
        ),
        nn.BatchNorm2d(out_channels),
    ]


class SqueezeExcitation(nn.Module):
    """Scales each channel by a gate that sees all channels' means.

    Source: Hu et al. 2018, figure 1.
    Shape: (B, C, H, W) -> (B, C, H, W)
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        scale = F.relu(self.fc1(x.mean((2, 3), keepdim=True)), inplace=True)
        return torch.sigmoid(self.fc2(scale)) * x


class RegularBottleneck(nn.Module):
    """1x1, grouped 3x3 with the stride, 1x1 convolution of one width, plus a shortcut.

    All published RegNets have bottleneck ratio 1, so the inner width is the output width.

    Source: Radosavovic et al. 2020 (RegNet), section 3.2; Y has squeeze-and-excitation after
    the 3x3; torchvision's `ResBottleneckBlock`.
    Shape: (B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride))
    """

    divides: ClassVar = {"group_width": ("out_channels",)}

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        *,
        group_width: Annotated[int, Param("channels of a group of the 3x3", ge=1)],
        se_ratio: Annotated[
            float, Param("squeezed channels over input channels (Y: 0.25); 0: none", ge=0)
        ] = 0.0,
        shortcut: Annotated[
            bool, Param("adds the input, projected where its shape differs; false: neither")
        ] = True,
    ) -> None:
        super().__init__()
        self.f = nn.Sequential(
            OrderedDict[str, nn.Module](
                a=nn.Sequential(*_conv_bn(in_channels, out_channels, 1), nn.ReLU(inplace=True)),
                b=nn.Sequential(
                    *_conv_bn(out_channels, out_channels, 3, stride, out_channels // group_width),
                    nn.ReLU(inplace=True),
                ),
            )
        )
        if se_ratio:
            squeezed = max(1, round(in_channels * se_ratio))
            self.f.add_module("se", SqueezeExcitation(out_channels, squeezed))
        self.f.add_module("c", nn.Sequential(*_conv_bn(out_channels, out_channels, 1)))
        self.has_shortcut = shortcut
        self.proj = None
        if shortcut and (stride != 1 or in_channels != out_channels):
            self.proj = nn.Sequential(*_conv_bn(in_channels, out_channels, 1, stride))
        initialize_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        y = self.f(x)
        if self.has_shortcut:
            y += x if self.proj is None else self.proj(x)
        return F.relu(y, inplace=True)


BLOCK = RegularBottleneck
