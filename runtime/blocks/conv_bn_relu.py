from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from torch import Tensor, nn

from runtime.initialization import initialize_convolutions
from runtime.parameter import Param

ACTIVATIONS = {"relu": nn.ReLU, "relu6": nn.ReLU6}


class ConvBNReLU(nn.Module):
    """Convolution, batch norm, activation.

    Source: VGG (with `bias`), the stems of MobileNetV2 (`relu6`) and RegNet, and DG-Net's 1x1
    input nodes.
    Shape: (B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride))
    """

    divides: ClassVar = {"groups": ("in_channels", "out_channels")}

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        *,
        kernel: Annotated[Literal[1, 3, 5, 7, 9, 11], Param("size of the kernel")] = 3,
        groups: Annotated[int, Param("groups of the convolution", ge=1)] = 1,
        bias: Annotated[bool, Param("the convolution has a bias, as in VGG")] = False,
        activation: Annotated[
            Literal["relu", "relu6", "none"], Param("what follows the batch norm")
        ] = "relu",
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=bias
        )
        self.bn = nn.BatchNorm2d(out_channels)
        self.activation = (
            nn.Identity() if activation == "none" else ACTIVATIONS[activation](inplace=True)
        )
        initialize_convolutions(self)
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.bn(self.conv(x)))


BLOCK = ConvBNReLU
