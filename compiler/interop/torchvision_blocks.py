"""Blocks of torchvision as kinds of a spec: each function here is one known constructor's call.

Their keyword-only arguments are YAML parameters; nothing a spec says is an import path.
torchvision is imported when a network with such a block is built, and not before.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Literal

from torch import nn

from compiler.interop._foreign import (
    Build,
    facts,
    initialize_like_convnext,
    initialize_like_resnet,
)
from runtime.parameter import Param

LIBRARY = "torchvision"

_Kernel = Literal[3, 5, 7]
EXPANSION = Param("inner channels over input channels", ge=1)
KERNEL = Param("size of the depthwise kernel")


def torchvision_basic(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Of torchvision: ResNet `BasicBlock`."""
    from torchvision.models.resnet import BasicBlock

    return initialize_like_resnet(
        BasicBlock(
            in_channels, out_channels, stride, _downsample(in_channels, out_channels, stride)
        )
    )


@facts(divides={"expansion": ("out_channels",)})
def torchvision_bottleneck(
    in_channels: int,
    out_channels: int,
    stride: int,
    *,
    expansion: Annotated[
        Literal[4], Param("output channels over those of the 3x3: torchvision's")
    ] = 4,
    groups: Annotated[int, Param("groups of the 3x3", ge=1)] = 1,
    base_width: Annotated[
        int, Param("channels of a group where the stage has 64 * expansion", ge=1)
    ] = 64,
) -> nn.Module:
    """Of torchvision: ResNet, ResNeXt and Wide ResNet `Bottleneck`."""
    from torchvision.models.resnet import Bottleneck

    planes = out_channels // expansion
    return initialize_like_resnet(
        Bottleneck(
            in_channels,
            planes,
            stride,
            _downsample(in_channels, out_channels, stride),
            groups=groups,
            base_width=max(base_width, -(-64 // planes)),  # no fewer than one channel a group
        )
    )


@facts(strides=(1, 2))
def torchvision_inverted_residual(
    in_channels: int,
    out_channels: int,
    stride: int,
    *,
    expansion: Annotated[int, EXPANSION] = 6,
) -> nn.Module:
    """Of torchvision: MobileNetV2 `InvertedResidual`."""
    from torchvision.models.mobilenetv2 import InvertedResidual

    return initialize_like_resnet(InvertedResidual(in_channels, out_channels, stride, expansion))


@facts(strides=(1, 2))
def torchvision_mobilenet_v3(
    in_channels: int,
    out_channels: int,
    stride: int,
    *,
    expansion: Annotated[float, EXPANSION] = 4.0,
    kernel: Annotated[_Kernel, KERNEL] = 3,
    se: Annotated[bool, Param("squeeze-and-excitation")] = True,
    activation: Annotated[Literal["relu", "hard_swish"], Param("of the block")] = "hard_swish",
) -> nn.Module:
    """Of torchvision: MobileNetV3 `InvertedResidual`."""
    from torchvision.models.mobilenetv3 import InvertedResidual, InvertedResidualConfig

    inner = max(1, round(in_channels * expansion))
    letters = "HS" if activation == "hard_swish" else "RE"
    config = InvertedResidualConfig(
        in_channels, kernel, inner, out_channels, se, letters, stride, 1, 1.0
    )
    # The configuration rounds to multiples of 8; a spec says what it wants.
    config.input_channels, config.out_channels = in_channels, out_channels
    config.expanded_channels = inner
    norm = partial(nn.BatchNorm2d, eps=0.001, momentum=0.01)
    return initialize_like_resnet(InvertedResidual(config, norm))


@facts(strides=(1, 2))
def torchvision_mbconv(
    in_channels: int,
    out_channels: int,
    stride: int,
    *,
    expansion: Annotated[float, EXPANSION] = 6.0,
    kernel: Annotated[_Kernel, KERNEL] = 3,
) -> nn.Module:
    """Of torchvision: EfficientNet `MBConv`; inner channels are multiples of 8."""
    from torchvision.models.efficientnet import MBConv, MBConvConfig

    config = MBConvConfig(expansion, kernel, stride, in_channels, out_channels, 1)
    # The configuration rounds to multiples of 8; a spec says what it wants.
    config.input_channels, config.out_channels = in_channels, out_channels
    return initialize_like_resnet(MBConv(config, 0.0, nn.BatchNorm2d))


@facts(strides=(1, 2))
def torchvision_fused_mbconv(
    in_channels: int,
    out_channels: int,
    stride: int,
    *,
    expansion: Annotated[float, EXPANSION] = 4.0,
    kernel: Annotated[_Kernel, Param("size of the expanding kernel")] = 3,
) -> nn.Module:
    """Of torchvision: EfficientNetV2 `FusedMBConv`; inner channels are multiples of 8."""
    from torchvision.models.efficientnet import FusedMBConv, FusedMBConvConfig

    config = FusedMBConvConfig(expansion, kernel, stride, in_channels, out_channels, 1)
    return initialize_like_resnet(FusedMBConv(config, 0.0, partial(nn.BatchNorm2d, eps=0.001)))


@facts(strides=(1,), keeps_channels=True)
def torchvision_convnext(
    in_channels: int,
    out_channels: int,
    stride: int,
    *,
    layer_scale: Annotated[float, Param("initial scale of what is added", gt=0)] = 1e-6,
) -> nn.Module:
    """Of torchvision: ConvNeXt `CNBlock`; it keeps channels and size."""
    from torchvision.models.convnext import CNBlock

    return initialize_like_convnext(CNBlock(in_channels, layer_scale, 0.0))


@facts(divides={"group_width": ("out_channels",)})
def torchvision_regnet(
    in_channels: int,
    out_channels: int,
    stride: int,
    *,
    group_width: Annotated[int, Param("channels of a group of the 3x3", ge=1)],
    se_ratio: Annotated[float, Param("squeezed channels over input channels; 0: none", ge=0)] = 0.0,
) -> nn.Module:
    """Of torchvision: RegNet `ResBottleneckBlock`."""
    from torchvision.models.regnet import ResBottleneckBlock

    relu: Any = nn.ReLU
    ratio = max(se_ratio, 1 / in_channels) if se_ratio else None
    return initialize_like_resnet(
        ResBottleneckBlock(
            in_channels,
            out_channels,
            stride,
            nn.BatchNorm2d,
            relu,
            group_width=group_width,
            se_ratio=ratio,
        )
    )


BLOCKS: Mapping[str, Build] = {
    build.__name__: build
    for build in (
        torchvision_basic,
        torchvision_bottleneck,
        torchvision_convnext,
        torchvision_fused_mbconv,
        torchvision_inverted_residual,
        torchvision_mbconv,
        torchvision_mobilenet_v3,
        torchvision_regnet,
    )
}


def _downsample(in_channels: int, out_channels: int, stride: int) -> nn.Module | None:
    """The shortcut's projection, where a ResNet of torchvision has one."""
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
    )
