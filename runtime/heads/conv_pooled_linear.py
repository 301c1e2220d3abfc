from __future__ import annotations

from typing import Annotated, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from runtime.initialization import initialize_convolutions, initialize_linear
from runtime.parameter import Param


class ConvPooledLinear(nn.Module):
    """1x1 convolution, batch norm, activation; global average pooling and one linear layer.

    Source: MobileNetV2, table 2 (`relu6`); RandWire, table 1 (`relu`).
    Shape: (B, in_channels, H, W) -> (B, num_classes)
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        width: Annotated[int, Param("output channels of the convolution", ge=1)] = 1280,
        activation: Annotated[
            Literal["relu", "relu6"], Param("what follows the batch norm")
        ] = "relu",
        dropout: Annotated[float, Param("dropout of the pooled features", ge=0, lt=1)] = 0.0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.activation = {"relu": F.relu, "relu6": F.relu6}[activation]
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(width, num_classes)
        initialize_convolutions(self)
        initialize_linear(self.fc, 0.01)

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation(self.bn(self.conv(x)), inplace=True)
        return self.fc(self.dropout(y.mean((2, 3))))


HEAD = ConvPooledLinear
