"""Blocks of timm as kinds of a spec: each function here is one, and calls one known constructor.

Their keyword-only arguments are YAML parameters; nothing a spec says is an import path. timm is
imported when a network with such a block is built, and not before.
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

LIBRARY = "timm"

_Activation = Literal["relu", "relu6", "silu", "gelu", "hard_swish"]
_Attention = Literal["none", "se", "ese", "eca", "gc", "cbam"]
_Kernel = Literal[3, 5, 7, 9]
_ANY_STRIDE = facts(strides=(1, 2))  # timm pads other strides so that sizes do not divide

ACTIVATION = Param("timm's name of the activation")
ATTENTION = Param("timm's name of the channel attention that ends the block")
EXPANSION = Param("inner channels over input channels", gt=0)
KERNEL = Param("size of the depthwise kernel")
SE_RATIO = Param("squeezed channels over input channels; 0: none", ge=0)
SHORTCUT = Param("adds the input where shapes agree; false: nowhere")


@_ANY_STRIDE
def timm_basic(
    in_channels: int,
    out_channels: int,
    stride: int,
    *,
    attention: Annotated[_Attention, ATTENTION] = "none",
) -> nn.Module:
    """Of timm: ResNet `BasicBlock`."""
    from timm.models.resnet import BasicBlock

    return initialize_like_resnet(
        BasicBlock(
            in_channels,
            out_channels,
            stride,
            _downsample(in_channels, out_channels, stride),
            attn_layer=_attention(attention),
        )
    )


@facts(strides=(1, 2), divides={"expansion": ("out_channels",)})
def timm_bottleneck(
    in_channels: int,
    out_channels: int,
    stride: int,
    *,
    expansion: Annotated[Literal[4], Param("output channels over those of the 3x3: timm's")] = 4,
    cardinality: Annotated[int, Param("groups of the 3x3", ge=1)] = 1,
    base_width: Annotated[
        int, Param("channels of a group where the stage has 64 * expansion", ge=1)
    ] = 64,
    attention: Annotated[_Attention, ATTENTION] = "none",
) -> nn.Module:
    """Of timm: ResNet, ResNeXt and SE-ResNet `Bottleneck`."""
    from timm.models.resnet import Bottleneck

    planes = out_channels // expansion
    return initialize_like_resnet(
        Bottleneck(
            in_channels,
            planes,
            stride,
            _downsample(in_channels, out_channels, stride),
            cardinality=cardinality,
            base_width=max(base_width, -(-64 // planes)),  # no fewer than one channel a group
            attn_layer=_attention(attention),
        )
    )


@_ANY_STRIDE
def timm_depthwise_separable(
    in_channels: int,
    out_channels: int,
    stride: int,
    *,
    kernel: Annotated[_Kernel, KERNEL] = 3,
    se_ratio: Annotated[float, SE_RATIO] = 0.0,
    activation: Annotated[_Activation, ACTIVATION] = "relu",
    shortcut: Annotated[bool, SHORTCUT] = True,
) -> nn.Module:
    """Of timm: `DepthwiseSeparableConv` of MobileNets and EfficientNets."""
    from timm.models._efficientnet_blocks import DepthwiseSeparableConv

    return _as_in_efficientnet(
        DepthwiseSeparableConv(
            in_channels,
            out_channels,
            kernel,
            stride,
            act_layer=activation,
            se_layer=_squeeze(se_ratio),
            noskip=not shortcut,
        )
    )


@_ANY_STRIDE
def timm_inverted_residual(
    in_channels: int,
    out_channels: int,
    stride: int,
    *,
    expansion: Annotated[float, EXPANSION] = 6.0,
    kernel: Annotated[_Kernel, KERNEL] = 3,
    se_ratio: Annotated[float, SE_RATIO] = 0.0,
    activation: Annotated[_Activation, ACTIVATION] = "relu",
    shortcut: Annotated[bool, SHORTCUT] = True,
) -> nn.Module:
    """Of timm: `InvertedResidual` of MobileNetV2, V3 and EfficientNet (MBConv)."""
    from timm.models._efficientnet_blocks import InvertedResidual

    return _as_in_efficientnet(
        InvertedResidual(
            in_channels,
            out_channels,
            kernel,
            stride,
            exp_ratio=expansion,
            act_layer=activation,
            se_layer=_squeeze(se_ratio / expansion),
            noskip=not shortcut,
        )
    )


@_ANY_STRIDE
def timm_edge_residual(
    in_channels: int,
    out_channels: int,
    stride: int,
    *,
    expansion: Annotated[float, EXPANSION] = 4.0,
    kernel: Annotated[_Kernel, Param("size of the expanding kernel")] = 3,
    se_ratio: Annotated[float, SE_RATIO] = 0.0,
    activation: Annotated[_Activation, ACTIVATION] = "relu",
    shortcut: Annotated[bool, SHORTCUT] = True,
) -> nn.Module:
    """Of timm: `EdgeResidual` of EfficientNetV2 (FusedMBConv)."""
    from timm.models._efficientnet_blocks import EdgeResidual

    return _as_in_efficientnet(
        EdgeResidual(
            in_channels,
            out_channels,
            kernel,
            stride,
            exp_ratio=expansion,
            act_layer=activation,
            se_layer=_squeeze(se_ratio / expansion),
            noskip=not shortcut,
        )
    )


@_ANY_STRIDE
def timm_universal_inverted_residual(
    in_channels: int,
    out_channels: int,
    stride: int,
    *,
    expansion: Annotated[float, EXPANSION] = 4.0,
    start_kernel: Annotated[
        Literal[0, 3, 5, 7], Param("depthwise kernel before the expansion; 0: none")
    ] = 0,
    kernel: Annotated[_Kernel, Param("depthwise kernel in the middle; it takes the stride")] = 3,
    activation: Annotated[_Activation, ACTIVATION] = "relu",
    shortcut: Annotated[bool, SHORTCUT] = True,
) -> nn.Module:
    """Of timm: `UniversalInvertedResidual` of MobileNetV4."""
    from timm.models._efficientnet_blocks import UniversalInvertedResidual

    return _as_in_efficientnet(
        UniversalInvertedResidual(
            in_channels,
            out_channels,
            start_kernel,
            kernel,
            stride=stride,
            exp_ratio=expansion,
            act_layer=activation,
            layer_scale_init_value=None,
            noskip=not shortcut,
        )
    )


@facts(strides=(1,), keeps_channels=True)
def timm_convnext(
    in_channels: int,
    out_channels: int,
    stride: int,
    *,
    kernel: Annotated[_Kernel, KERNEL] = 7,
    mlp_ratio: Annotated[float, Param("inner channels over channels", gt=0)] = 4.0,
    grn: Annotated[bool, Param("global response normalisation, as in ConvNeXt V2")] = False,
    layer_scale: Annotated[
        float | None, Param("initial scale of what is added; null: none", gt=0)
    ] = 1e-6,
) -> nn.Module:
    """Of timm: `ConvNeXtBlock`; it keeps channels and size."""
    from timm.models.convnext import ConvNeXtBlock

    return initialize_like_convnext(
        ConvNeXtBlock(
            in_channels,
            kernel_size=kernel,
            mlp_ratio=mlp_ratio,
            use_grn=grn,
            ls_init_value=layer_scale,
        )
    )


@facts(strides=(1, 2), divides={"group_width": ("out_channels",)})
def timm_regnet(
    in_channels: int,
    out_channels: int,
    stride: int,
    *,
    group_width: Annotated[int, Param("channels of a group of the 3x3", ge=1)],
    se_ratio: Annotated[float, SE_RATIO] = 0.0,
    activation: Annotated[_Activation, ACTIVATION] = "relu",
) -> nn.Module:
    """Of timm: RegNet `Bottleneck`."""
    from timm.layers.create_act import get_act_layer
    from timm.models.regnet import Bottleneck

    act_layer: Any = get_act_layer(activation)
    return initialize_like_resnet(
        Bottleneck(
            in_channels,
            out_channels,
            stride,
            group_size=group_width,
            se_ratio=max(se_ratio, 1 / in_channels) if se_ratio else 0.0,
            act_layer=act_layer,
        )
    )


BLOCKS: Mapping[str, Build] = {
    build.__name__: build
    for build in (
        timm_basic,
        timm_bottleneck,
        timm_convnext,
        timm_depthwise_separable,
        timm_edge_residual,
        timm_inverted_residual,
        timm_regnet,
        timm_universal_inverted_residual,
    )
}


def _downsample(in_channels: int, out_channels: int, stride: int) -> nn.Module | None:
    """The shortcut's projection, where a ResNet of timm has one."""
    from timm.models.resnet import downsample_conv

    if stride == 1 and in_channels == out_channels:
        return None
    return downsample_conv(in_channels, out_channels, 1, stride)


def _attention(name: str) -> Any:
    from timm.layers.create_attn import get_attn

    return None if name == "none" else get_attn(name)


def _squeeze(ratio: float) -> Any:
    """The class of a squeeze-and-excitation layer that has at least one channel."""
    from timm.models._efficientnet_blocks import SqueezeExcite

    if not ratio:
        return None
    return partial(SqueezeExcite, rd_ratio=ratio, rd_round_fn=_at_least_one)


def _at_least_one(channels: float) -> int:
    return max(1, round(channels))


def _as_in_efficientnet(block: nn.Module) -> nn.Module:
    from timm.models._efficientnet_builder import efficientnet_init_weights

    efficientnet_init_weights(block)
    return block
