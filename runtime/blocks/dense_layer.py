from __future__ import annotations

from typing import Annotated, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from runtime.initialization import initialize_convolutions
from runtime.parameter import Param


class DenseLayer(nn.Module):
    """Batch norm, ReLU, 1x1; batch norm, ReLU, 3x3: adds `out_channels` features (growth rate).

    Source: Huang et al. 2017 (DenseNet-BC), section 3; torchvision's `_DenseLayer`.
    Shape: (B, in_channels, H, W) -> (B, out_channels, H, W)
    """

    strides: ClassVar = (1,)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        *,
        bn_size: Annotated[int, Param("inner channels over output channels", ge=1)] = 4,
        drop: Annotated[float, Param("dropout of the new features", ge=0, lt=1)] = 0.0,
    ) -> None:
        super().__init__()
        hidden = bn_size * out_channels
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, hidden, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(hidden)
        self.conv2 = nn.Conv2d(hidden, out_channels, 3, stride, 1, bias=False)
        self.drop = nn.Dropout(drop)
        initialize_convolutions(self, "fan_in")

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.relu(self.norm1(x), inplace=True))
        y = self.conv2(F.relu(self.norm2(y), inplace=True))
        return self.drop(y)


BLOCK = DenseLayer
