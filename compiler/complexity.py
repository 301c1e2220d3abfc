"""What a network costs: parameters, multiply-adds and activations, by stage and node.

Operations are counted by torch's own flop counter on the meta device; only the attribution to
the spec's names, and the aggregation, which that counter sees or not depending on how it is
written, are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, fx, nn
from torch.utils.flop_counter import FlopCounterMode

from compiler.analysis import analyze
from compiler.lower import Origin, lower
from graphspec import NetworkGraph, NetworkSpec
from runtime.aggregate import LearnedSum, RoutedSum, Sum

RULE = (
    "one multiply-add a MAC; conv_macs: convolutions alone; macs: convolutions, linear layers, "
    "routers, and 1 per aggregated element of every edge into a weighted sum; no batch norm, "
    "activation or pooling"
)
_CONVOLUTION = torch.ops.aten.convolution


@dataclass(frozen=True)
class Cost:
    """The cost of one part of a network, for one sample."""

    stage: str
    node: str
    part: Literal["block", "router", "aggregate", "gate", "threshold"]
    params: int
    conv_macs: int
    macs: int
    activations: int

    @property
    def name(self) -> str:
        return ".".join(filter(None, (self.stage, self.node)))


@dataclass(frozen=True)
class Complexity:
    """The cost of a network for one sample of its spec's input shape, row by row.

    `activations` counts the elements of all convolution outputs, as RegNet's paper does.
    """

    name: str
    input_shape: tuple[int, int, int]
    rows: tuple[Cost, ...]

    @property
    def params(self) -> int:
        return sum(row.params for row in self.rows)

    @property
    def conv_macs(self) -> int:
        return sum(row.conv_macs for row in self.rows)

    @property
    def macs(self) -> int:
        return sum(row.macs for row in self.rows)

    @property
    def activations(self) -> int:
        return sum(row.activations for row in self.rows)


def count(network: NetworkSpec | NetworkGraph) -> Complexity:
    """The cost of a network; nothing is allocated.

    Raises:
        SpecError: when the spec is wrong.
    """
    graph = network if isinstance(network, NetworkGraph) else analyze(network)[0]
    with torch.device("meta"):
        model = lower(graph).eval()
        x = torch.empty(1, *graph.input_shape)
    return Complexity(graph.name, graph.input_shape, tuple(_rows(graph, model, x)))


def _rows(graph: NetworkGraph, model: fx.GraphModule, x: Tensor) -> list[Cost]:
    activations: dict[str, int] = {}

    def record(name: str, _module: nn.Module, _input: object, output: Tensor) -> None:
        activations[name] = output.numel()

    hooks = [
        module.register_forward_hook(partial(record, name))
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d)
    ]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    prefix = f"{type(model).__name__}."
    flops = {
        name.removeprefix(prefix): counts for name, counts in counter.get_flop_counts().items()
    }

    def cost(origin: Origin, target: str, module: nn.Module, aggregated: int) -> Cost:
        counts = flops.get(target, {})
        macs = sum(counts.values()) // 2
        conv = counts.get(_CONVOLUTION, 0) // 2
        return Cost(
            stage=origin.stage,
            node=origin.node,
            part=origin.part,  # pyright: ignore[reportArgumentType]
            params=sum(p.numel() for p in module.parameters()),
            conv_macs=conv,
            macs=macs + aggregated,
            activations=sum(n for name, n in activations.items() if _within(name, target)),
        )

    rows: list[Cost] = []
    stages = {stage.name: stage for stage in graph.stages}
    for call in model.graph.find_nodes(op="call_module"):
        target = str(call.target)
        module = model.get_submodule(target)
        if target not in stages:
            rows.append(cost(call.meta["graphc"], target, module, 0))
            continue
        assert isinstance(module, fx.GraphModule)
        elements = {node.name: _elements(node.in_shape) for node in stages[target].nodes}
        threshold = dict(module.named_parameters(recurse=False)).get("threshold")
        if threshold is not None:
            rows.append(Cost(target, "", "threshold", threshold.numel(), 0, 0, 0))
        for inner in module.graph.find_nodes(op="call_module"):
            origin: Origin = inner.meta["graphc"]
            if origin.part == "tap":
                continue  # the identity
            child = module.get_submodule(str(inner.target))
            aggregated = _aggregated(child, len(origin.sources)) * elements[origin.node]
            rows.append(cost(origin, f"{target}.{inner.target}", child, aggregated))
    return rows


def _aggregated(module: nn.Module, num_sources: int) -> int:
    """How many sources a module sums; handing on a single one, or concatenating, costs nothing."""
    if isinstance(module, Sum) and module.weights == (1,):
        return 0
    return num_sources if isinstance(module, Sum | LearnedSum | RoutedSum) else 0


def _elements(shape: tuple[int, int, int] | None) -> int:
    channels, height, width = shape or (0, 0, 0)
    return channels * height * width


def _within(name: str, target: str) -> bool:
    return name == target or name.startswith(f"{target}.")
