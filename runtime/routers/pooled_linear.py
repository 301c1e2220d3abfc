from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn

from runtime.parameter import Param


class PooledLinear(nn.Module):
    """Global average pooling of a node's output, one linear layer, sigmoid.

    Source: DG-Net, eq. 4 and appendix 6.4 (the bias). The paper is silent on the weights; small
    ones let every edge start at sigmoid(bias_init).
    Shape: (B, in_channels, H, W) -> (B, num_targets), in (0, 1)
    """

    def __init__(
        self,
        in_channels: int,
        num_targets: int,
        *,
        bias_init: Annotated[float, Param("initial bias; positive: edges start open")] = 3.0,
    ) -> None:
        super().__init__()
        self.fc = nn.Linear(in_channels, num_targets)
        nn.init.normal_(self.fc.weight, 0.0, 0.01)
        nn.init.constant_(self.fc.bias, bias_init)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.fc(_pool(x)))


def _pool(x: Tensor) -> Tensor:
    """The mean over space. Shape: (B, C, H, W) -> (B, C)"""
    if x.dtype in (torch.float32, torch.float64):
        # The gradient of a sum is a view, that of a mean a division at full size.
        return x.sum((2, 3)) / (x.shape[2] * x.shape[3])
    return x.mean((2, 3))  # a sum may exceed float16


ROUTER = PooledLinear
