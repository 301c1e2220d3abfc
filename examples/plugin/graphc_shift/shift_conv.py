"""The block `shift_conv`."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from runtime.parameter import Param


class ShiftConv(nn.Module):
    """Shifts a fifth of the channels each way, then 1x1 convolution, batch norm, ReLU.

    Source: Wu et al. 2018, Shift: A Zero FLOP, Zero Parameter Alternative to Spatial Convolutions.
    Shape: (B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride))
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        *,
        distance: Annotated[int, Param("pixels to shift by", ge=1)] = 1,
    ) -> None:
        super().__init__()
        self.distance = distance
        self.conv = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        d, (H, W) = self.distance, x.shape[2:]
        padded = F.pad(x, (d, d, d, d))
        places = ((d, d), (0, d), (2 * d, d), (d, 0), (d, 2 * d))
        parts = [
            part[:, :, top : top + H, left : left + W]
            for part, (top, left) in zip(padded.tensor_split(5, dim=1), places, strict=True)
        ]
        return F.relu(self.bn(self.conv(torch.cat(parts, dim=1))))
