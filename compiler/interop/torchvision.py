"""Compiled networks in torchvision: in its registry, and as backbones of its detectors."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, fx, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from compiler.analysis import analyze
from compiler.driver import compile
from compiler.features import Level, levels, pyramid
from compiler.interop._examples import examples
from graphspec import NetworkSpec, load
from runtime.outputs import with_outputs

POOLED_SIZE = 7
"""Side of the features that the heads see of a box."""
ANCHOR_SCALE = 8
"""Side of a level's anchors, in strides of the level (Faster R-CNN with FPN: 32 at stride 4)."""
COARSEST = "pool"


class PyramidBackbone(nn.Module):
    """A network without its head, and a feature pyramid on the outputs of some of its stages.

    Source: Lin et al. 2017, Feature Pyramid Networks for Object Detection.
    Shape: (B, C, H, W) -> by level and "pool": (B, out_channels, H / stride, W / stride)
    """

    def __init__(
        self, network: fx.GraphModule, taken: Sequence[Level], out_channels: int = 256
    ) -> None:
        super().__init__()
        self.body = features_only(network, [level.name for level in taken])
        channels = [level.channels for level in taken]
        self.fpn = FeaturePyramidNetwork(channels, out_channels, LastLevelMaxPool())
        self.levels, self.out_channels = tuple(taken), out_channels

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.fpn(OrderedDict(self.body(x)))


def features_only(network: fx.GraphModule, names: Sequence[str]) -> fx.GraphModule:
    """A network that returns the features of these stages by name, and has no head.

    It shares its parameters with `network`.
    """
    body = with_outputs(network, adjacency=False, features=names)
    (output,) = body.graph.find_nodes(op="output")
    output.args = (output.args[0][2],)
    body.graph.eliminate_dead_code()
    body.delete_all_unused_submodules()
    body.recompile()
    return body.train(network.training)


def build_backbone(
    spec: NetworkSpec | str | Path,
    *,
    network: fx.GraphModule | None = None,
    stages: Sequence[str] | None = None,
    out_channels: int = 256,
) -> PyramidBackbone:
    """The network of a spec as a backbone; without `stages`, the last one of each stride.

    `network` is the spec compiled, e.g. with trained weights.

    Raises:
        SpecError: the spec is wrong.
        ValueError: it has no stage of that name, or a stage less fine than the one before.
    """
    spec = spec if isinstance(spec, NetworkSpec) else load(spec)
    return PyramidBackbone(network or compile(spec), _taken(spec, stages), out_channels)


def build_detector(
    spec: NetworkSpec | str | Path,
    num_classes: int | None,
    *,
    network: fx.GraphModule | None = None,
    stages: Sequence[str] | None = None,
    out_channels: int = 256,
    anchor_scale: int = ANCHOR_SCALE,
    **options: Any,
) -> FasterRCNN:
    """Faster R-CNN with a feature pyramid on the network of a spec.

    `num_classes` counts the background, and is None beside a `box_predictor`. `network` is the
    spec compiled, e.g. with trained weights; `options` are those of torchvision's FasterRCNN.

    Source: Ren et al. 2015; anchors and pooling as in Lin et al. 2017.
    Raises:
        SpecError: the spec is wrong.
        ValueError: see `build_backbone`.
    """
    backbone = build_backbone(spec, network=network, stages=stages, out_channels=out_channels)
    names = [level.name for level in backbone.levels]
    strides = [level.stride for level in backbone.levels]
    sizes = tuple((anchor_scale * stride,) for stride in (*strides, 2 * strides[-1]))
    defaults: dict[str, Any] = {
        "rpn_anchor_generator": AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes)),
        "box_roi_pool": MultiScaleRoIAlign(names, output_size=POOLED_SIZE, sampling_ratio=2),
    }
    return FasterRCNN(backbone, num_classes, **(defaults | options))


def register() -> tuple[str, ...]:
    """Registers every example for `torchvision.models.get_model`; returns the names.

    torchvision's registry is private to it: it has no weights to list for these names, and a
    later version may take the registry away.
    """
    from torchvision.models._api import BUILTIN_MODELS, register_model

    def registered(name: str) -> bool:
        return name in BUILTIN_MODELS and name not in _REGISTERED

    for name, file in examples(registered):
        if name not in _REGISTERED:
            register_model(name)(_builder(file))
            _REGISTERED.append(name)
    return tuple(_REGISTERED)


_REGISTERED: list[str] = []


def _builder(file: Path) -> Any:
    def create(*, weights: None = None, progress: bool = True, num_classes: int | None = None):
        if weights is not None:
            raise ValueError("no weights are published for this network; load a state_dict")
        overrides = () if num_classes is None else (f"head.num_classes={num_classes}",)
        return compile(load(file, overrides))

    return create


def _taken(spec: NetworkSpec, stages: Sequence[str] | None) -> tuple[Level, ...]:
    graph, _ = analyze(spec)
    if stages is None:
        return pyramid(graph)
    known = {level.name: level for level in levels(graph)}
    for name in stages:
        if name not in known:
            raise ValueError(f"no stage {name!r} to take features from (known: {', '.join(known)})")
    taken = tuple(known[name] for name in stages)
    strides = [level.stride for level in taken]
    if not taken or strides != sorted(set(strides)):
        raise ValueError(f"a pyramid needs stages of growing stride; {list(stages)} have {strides}")
    return taken
