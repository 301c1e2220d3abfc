from __future__ import annotations

from typing import Annotated

from torch import Tensor, nn

from runtime.initialization import initialize_linear
from runtime.parameter import Param


class MLP(nn.Module):
    """Average pooling to a fixed size, then linear layers with ReLU and dropout between.

    Source: VGG, table 1.
    Shape: (B, in_channels, H, W) -> (B, num_classes)
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        pool_size: Annotated[int, Param("height and width after pooling", ge=1)] = 7,
        hidden: Annotated[tuple[int, ...], Param("width of each hidden layer", ge=1)] = (
            4096,
            4096,
        ),
        dropout: Annotated[float, Param("dropout after each hidden layer", ge=0, lt=1)] = 0.5,
    ) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(pool_size)
        self.classifier = nn.Sequential()
        features = in_channels * pool_size**2
        for width in hidden:
            self.classifier.append(nn.Linear(features, width))
            self.classifier.append(nn.ReLU(inplace=True))
            self.classifier.append(nn.Dropout(dropout))
            features = width
        self.classifier.append(nn.Linear(features, num_classes))
        for layer in self.classifier:
            if isinstance(layer, nn.Linear):
                initialize_linear(layer, 0.01)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.pool(x).flatten(1))


HEAD = MLP
