from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from runtime.initialization import initialize_convolutions
from runtime.parameter import Param


class ImageNetStem(nn.Module):
    """7x7 convolution of stride 2, batch norm, ReLU, 3x3 max pooling of stride 2.

    Source: He et al. 2016, table 1 (ResNet, ResNeXt); DenseNet has the same.
    Shape: (B, in_channels, H, W) -> (B, out_channels, ceil(H / 4), ceil(W / 4))
    """

    strides: ClassVar = (4,)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        *,
        init: Annotated[
            Literal["fan_in", "fan_out"],
            Param("initial weights: He's normal by fan-out (ResNet) or fan-in (DenseNet)"),
        ] = "fan_out",
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 7, stride // 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        initialize_convolutions(self, init)

    def forward(self, x: Tensor) -> Tensor:
        return self.maxpool(F.relu(self.bn1(self.conv1(x)), inplace=True))


STEM = ImageNetStem
