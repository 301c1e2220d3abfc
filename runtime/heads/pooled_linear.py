from __future__ import annotations

from typing import Annotated

from torch import Tensor, nn

from runtime.initialization import initialize_linear
from runtime.parameter import Param


class PooledLinear(nn.Module):
    """Global average pooling and one linear layer.

    Source: ResNet; RegNet with `init_std` 0.01.
    Shape: (B, in_channels, H, W) -> (B, num_classes)
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        dropout: Annotated[float, Param("dropout of the pooled features", ge=0, lt=1)] = 0.0,
        init_std: Annotated[
            float | None,
            Param("initial weights: normal of this deviation, bias 0; null: torch's own", gt=0),
        ] = None,
    ) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(in_channels, num_classes)
        if init_std is not None:
            initialize_linear(self.fc, init_std)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.dropout(x.mean((2, 3))))


HEAD = PooledLinear
