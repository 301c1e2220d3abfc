from __future__ import annotations

from typing import Annotated

import torch.nn.functional as F
from torch import Tensor, nn

from runtime.parameter import Param


class NormPooledLinear(nn.Module):
    """Batch norm, ReLU; global average pooling and one linear layer.

    Source: DenseNet, whose stages end in convolutions.
    Shape: (B, in_channels, H, W) -> (B, num_classes)
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        dropout: Annotated[float, Param("dropout of the pooled features", ge=0, lt=1)] = 0.0,
    ) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(in_channels)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(in_channels, num_classes)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm(x), inplace=True)
        return self.fc(self.dropout(y.mean((2, 3))))


HEAD = NormPooledLinear
