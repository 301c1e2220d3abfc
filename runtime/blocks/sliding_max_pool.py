from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from torch import Tensor, nn

from runtime.parameter import Param


class SlidingMaxPool(nn.Module):
    """Maximum of the window around each position, padded so that stride 1 keeps the size.

    Source: a common operation of searched cells (Zoph et al. 2018, NASNet).
    Shape: (B, C, H, W) -> (B, C, ceil(H / stride), ceil(W / stride))
    """

    keeps_channels: ClassVar = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        *,
        kernel: Annotated[Literal[3, 5, 7], Param("size of the window")] = 3,
    ) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(kernel, stride, kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(x)


BLOCK = SlidingMaxPool
