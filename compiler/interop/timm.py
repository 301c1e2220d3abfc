"""Compiled networks in timm's registry: `import compiler.interop.timm` registers every example.

Example:
    >>> import compiler.interop.timm, timm
    >>> timm.create_model("dgnet_resnet50", num_classes=10, features_only=True)
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compiler import catalog
from compiler.analysis import analyze
from compiler.features import Level, levels
from compiler.interop._examples import examples
from compiler.lower import lower
from graphspec import NetworkGraph, NetworkSpec, load
from runtime.aggregate import LearnedSum, RoutedConcat, RoutedSum
from runtime.gating import Gate, NoScores
from runtime.weighted_sum import Tap

try:
    from timm.models import (
        build_model_with_cfg,
        is_model,
        register_model,
        register_notrace_module,
    )
    from timm.models._features import feature_take_indices
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("timm is not installed: pip install 'graphc-nn[timm]'") from error

__all__ = ["GraphNetwork", "register"]

# What they compute depends on the mode, so that a trace must not look inside.
_routers = catalog.classes("routers").values()
for _class in (Gate, LearnedSum, NoScores, RoutedConcat, RoutedSum, Tap, *_routers):
    register_notrace_module(_class)


class GraphNetwork(nn.Module):
    """A compiled network with the methods that timm expects; its state_dict is the network's.

    `global_pool` "" hands on the last stage's features, "avg" is what the spec's head does.
    Shape: (B, in_chans, H, W) -> (B, num_classes), or (B, head_hidden_size) without classifier
    """

    def __init__(
        self, spec: NetworkSpec, num_classes: int, in_chans: int, global_pool: str = "avg"
    ) -> None:
        super().__init__()
        graph = _graph(spec, max(num_classes, 1), in_chans)
        for name, child in lower(graph).named_children():
            self.add_module(name, child)
        # In a tuple: what its values are is no module's business.
        self._wires = tuple((stage.name, stage.inputs) for stage in graph.stages)
        self._levels = levels(graph)
        self._head = (graph.head, self._levels[-1].channels)
        self._classifier = _classifier_name(self.get_submodule("head"))
        self.num_classes, self.in_chans = num_classes, in_chans
        self.num_features = self._levels[-1].channels
        self.head_hidden_size = self._linear().in_features
        self.feature_info = [_feature_info(level) for level in self._levels]
        self.global_pool = "avg"
        if num_classes == 0 or global_pool != "avg":
            self.reset_classifier(num_classes, global_pool)

    def get_classifier(self) -> nn.Module:
        """The linear layer that gives the logits, or `nn.Identity`."""
        return self.get_submodule(self._classifier)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the last linear layer by a new one, or by nothing (0)."""
        global_pool = self.global_pool if global_pool is None else global_pool
        if global_pool not in ("", "avg") or (num_classes and not global_pool):
            raise ValueError(
                f"global_pool is 'avg', or '' where num_classes is 0; not {global_pool!r} with "
                f"{num_classes} classes"
            )
        classifier: nn.Module = nn.Identity()
        if num_classes:
            call, channels = self._head
            with next(self.parameters()).device:
                head = catalog.make_head(call, channels, num_classes)
            classifier = head.get_submodule(self._classifier.removeprefix("head."))
        self.set_submodule(self._classifier, classifier)
        self.num_classes, self.global_pool = num_classes, global_pool

    def forward_features(self, x: Tensor) -> Tensor:
        """The last stage's features. Shape: (B, in_chans, H, W) -> (B, num_features, h, w)"""
        return self._values(x)[self._levels[-1].name]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits of features, or what the classifier would receive."""
        if not self.global_pool:
            return x
        head = self.get_submodule("head")
        if pre_logits:
            head = _without(head, self._classifier.split(".")[1:])
        return head(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The features of the levels with these indices; see `feature_info`."""
        if output_fmt != "NCHW":
            raise ValueError(f"features are NCHW, not {output_fmt}")
        taken, last = feature_take_indices(len(self._levels), indices)
        until = self._levels[last].name if stop_early or intermediates_only else None
        values = self._values(x, until)
        found = [values[self._levels[index].name] for index in taken]
        return found if intermediates_only else (list(values.values())[-1], found)

    def prune_intermediate_layers(
        self,
        indices: int | list[int] | None = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """Drops what comes after the levels with these indices; returns the indices."""
        taken, last = feature_take_indices(len(self._levels), indices)
        self._levels = self._levels[: last + 1]
        kept = {level.name for level in self._levels}
        for name, _ in self._wires:
            if name not in kept:
                delattr(self, name)
        self._wires = tuple(wire for wire in self._wires if wire[0] in kept)
        if prune_head:
            self.head, self._classifier = nn.Identity(), "head"
            self.num_classes, self.global_pool = 0, ""
        return taken

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Which parameters belong to which layer: the stem, then stage by stage."""
        return {
            "stem": r"^stem\.",
            "blocks": [(rf"^{wire[0]}\.", (index,)) for index, wire in enumerate(self._wires)],
        }

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Only off."""
        assert not enable, "gradient checkpointing is not supported"

    def _values(self, x: Tensor, until: str | None = None) -> dict[str, Tensor]:
        """The outputs of the stem and of all stages up to one, by name."""
        stem = getattr(self, "stem", None)
        values = {"stem": x if stem is None else stem(x)}
        for name, inputs in self._wires if until != "stem" else ():
            values[name] = self.get_submodule(name)(*(values[source] for source in inputs))
            if name == until:
                break
        return values

    def _linear(self) -> nn.Linear:
        linear = self.get_classifier()
        assert isinstance(linear, nn.Linear)
        return linear


def register(name: str, spec: NetworkSpec | str | Path) -> None:
    """Makes `timm.create_model(name)` build the network of a spec, or of a spec file.

    Raises:
        ValueError: when timm has a model of this name.
    """
    if is_model(name):
        raise ValueError(f"timm has a model {name!r} already; choose another name")

    def create(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        loaded = spec if isinstance(spec, NetworkSpec) else load(spec)
        cfg = kwargs.pop("pretrained_cfg", None) or _default_cfg(loaded)
        return build_model_with_cfg(
            partial(GraphNetwork, loaded),
            name,
            pretrained,
            pretrained_cfg=cfg,
            feature_cfg={
                "out_indices": tuple(range(len(levels(analyze(loaded)[0])))),
                "feature_cls": "getter",
            },
            **kwargs,
        )

    create.__name__ = create.__qualname__ = name
    create.__doc__ = f"The network of {spec.name if isinstance(spec, NetworkSpec) else spec}."
    register_model(create)


def _graph(spec: NetworkSpec, num_classes: int, in_chans: int) -> NetworkGraph:
    head = spec.head.model_copy(update={"num_classes": num_classes})
    shape = (in_chans, *spec.input_shape[1:])
    return analyze(spec.model_copy(update={"head": head, "input_shape": shape}))[0]


def _default_cfg(spec: NetworkSpec) -> dict[str, Any]:
    """What timm wants to know of a network before it is made; no weights are published."""
    graph = analyze(spec)[0]
    with torch.device("meta"):
        model = lower(graph)
    shape = graph.stages[-1].nodes[-1].out_shape
    assert shape is not None, "infer-shapes runs before"
    convolutions = (n for n, m in model.named_modules() if isinstance(m, nn.Conv2d))
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    is_rgb = graph.input_shape[0] == 3
    return {
        "url": "",
        "num_classes": graph.num_classes,
        "input_size": graph.input_shape,
        "pool_size": shape[1:],
        "crop_pct": 0.875,
        "interpolation": "bilinear",
        "mean": mean if is_rgb else (0.5,) * graph.input_shape[0],
        "std": std if is_rgb else (0.5,) * graph.input_shape[0],
        "first_conv": next(convolutions, None),
        "classifier": _classifier_name(model.get_submodule("head")),
    }


def _classifier_name(head: nn.Module) -> str:
    """The full name of the last linear layer of a head."""
    linear = [name for name, module in head.named_modules() if isinstance(module, nn.Linear)]
    if not linear or not linear[-1]:
        raise ValueError(f"a {type(head).__name__} has no linear layer that timm could replace")
    return f"head.{linear[-1]}"


def _without(module: nn.Module, path: Sequence[str]) -> nn.Module:
    """A module that shares everything with `module` but has no layer at `path`."""
    if not path:
        return nn.Identity()
    twin = copy.copy(module)
    children = {**vars(module)["_modules"], path[0]: _without(getattr(module, path[0]), path[1:])}
    vars(twin)["_modules"] = children
    return twin


def _feature_info(level: Level) -> dict[str, Any]:
    return {"num_chs": level.channels, "reduction": level.stride, "module": level.name}


def _register_examples() -> Iterator[str]:
    for name, file in examples(is_model):
        register(name, file)
        yield name


EXAMPLES = tuple(_register_examples())
"""The names under which the examples are registered."""
