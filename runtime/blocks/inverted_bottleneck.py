from __future__ import annotations

from typing import Annotated, Literal

from torch import Tensor, nn

from runtime.initialization import initialize_convolutions
from runtime.parameter import Param


def _conv_bn_relu6(
    in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(
            in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False
        ),
        nn.BatchNorm2d(out_channels),
        nn.ReLU6(inplace=True),
    )


class InvertedBottleneck(nn.Module):
    """1x1 expansion, depthwise convolution with the stride, linear 1x1 projection.

    Source: Sandler et al. 2018 (MobileNetV2), table 1; torchvision's `InvertedResidual`.
    Shape: (B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride))
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        *,
        expansion: Annotated[
            float, Param("inner channels over input channels; 1: no expansion layer", gt=0)
        ] = 6.0,
        kernel: Annotated[Literal[3, 5, 7], Param("size of the depthwise kernel")] = 3,
        shortcut: Annotated[
            bool, Param("adds the input where shapes agree; false: nowhere")
        ] = True,
    ) -> None:
        super().__init__()
        hidden = max(1, round(in_channels * expansion))
        expand = [] if expansion == 1 else [_conv_bn_relu6(in_channels, hidden, 1)]
        self.conv = nn.Sequential(
            *expand,
            _conv_bn_relu6(hidden, hidden, kernel, stride, groups=hidden),
            nn.Conv2d(hidden, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.has_shortcut = shortcut and stride == 1 and in_channels == out_channels
        initialize_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.has_shortcut else self.conv(x)


BLOCK = InvertedBottleneck
