"""What a network costs: parameters, multiply-adds and activations, by stage and node.

Operations are counted by the formulas of torch's own flop counter; only the attribution to the
spec's names, and the aggregation, which those see or not depending on how it is written, are
ours. The counter itself is not used: it loads torch's compiler, for seconds.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from torch.utils.hooks import RemovableHandle

from compiler.analysis import analyze
from compiler.lower import NoDraws, Origin, lower
from graphspec import NetworkGraph, NetworkSpec
from runtime.aggregate import LearnedSum, RoutedSum, Sum
from runtime.outputs import stages

RULE = (
    "one multiply-add a MAC; conv_macs: convolutions alone; macs: convolutions, linear layers, "
    "routers, and 1 per aggregated element of every edge into a weighted sum; no batch norm, "
    "activation or pooling"
)
_CONVOLUTION = torch.ops.aten.convolution
LARGE = 1 << 28
"""Elements of a network's features and weights, roughly, from which it is counted on the meta
device: that takes no memory, and the seconds in which torch loads its compiler for it."""


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
    """The cost of a network; no convolution is computed, and no weight drawn.

    Raises:
        SpecError: when the spec is wrong.
    """
    graph = network if isinstance(network, NetworkGraph) else analyze(network)[0]
    return count_program(graph, outline(graph))


def outline(graph: NetworkGraph) -> fx.GraphModule:
    """The program of a graph with weights that were never drawn: to be read and counted."""
    with torch.device("cpu" if _size(graph) < LARGE else "meta"), NoDraws():
        return lower(graph).eval()


def count_program(graph: NetworkGraph, program: fx.GraphModule) -> Complexity:
    """The cost of `graph`, of which `program` is the `outline`."""
    device = next(program.parameters()).device
    with torch.no_grad(), torch.device(device), _Counter(program) as counter:
        program(torch.empty(1, *graph.input_shape))
    counter.close()
    return Complexity(graph.name, graph.input_shape, tuple(_rows(graph, program, counter)))


def _size(graph: NetworkGraph) -> int:
    nodes = [node for stage in graph.stages for node in stage.nodes]
    shapes = [(node.in_shape or (0,), node.out_shape or (0,)) for node in nodes]
    features = [graph.input_shape, graph.stem_shape or (0,), *(out for _, out in shapes)]
    return sum(map(prod, features)) + sum(before[0] * after[0] for before, after in shapes)


class _ByFormula:
    """Counts operations by the formulas of `torch.utils.flop_counter`; convolves nothing.

    `macs` and `activations` are by the module that a program calls.
    """

    def __init__(self) -> None:
        super().__init__()
        self.called = ""
        self.macs: dict[str, Counter[Any]] = {}
        self.activations: Counter[str] = Counter()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        operation = func.overloadpacket
        if operation is _CONVOLUTION and not args[6]:
            result = args[0].new_empty(_convolved(*args[:6]))
        else:
            result = func(*args, **(kwargs or {}))
        formula = flop_registry.get(operation)
        if formula is not None:
            flops = formula(*args, **(kwargs or {}), out_val=result)
            self.macs.setdefault(self.called, Counter())[operation] += flops // 2
        if operation is _CONVOLUTION:
            self.activations[self.called] += result.numel()
        return result


class _Counter(_ByFormula, TorchDispatchMode):
    """Knows which module of `model` is called.

    Its own class, because torch loads its compiler for what a mode's own class dispatches.
    """

    def __init__(self, model: fx.GraphModule) -> None:
        super().__init__()
        self._handles: list[RemovableHandle] = []
        programs = [("", model), *((f"{name}.", stage) for name, stage in stages(model))]
        for prefix, program in programs:
            for call in program.graph.find_nodes(op="call_module"):
                module = program.get_submodule(str(call.target))
                enter = partial(self._enter, f"{prefix}{call.target}")
                self._handles.append(module.register_forward_pre_hook(enter))

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()

    def _enter(self, name: str, _module: nn.Module, _inputs: Any) -> None:
        self.called = name


def _convolved(
    x: Tensor,
    weight: Tensor,
    _bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
) -> list[int]:
    """The shape of a convolution's output."""
    sizes = zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
    return [
        x.shape[0],
        weight.shape[0],
        *((n + 2 * pad - gap * (k - 1) - 1) // step + 1 for n, k, step, pad, gap in sizes),
    ]


def _rows(graph: NetworkGraph, model: fx.GraphModule, counter: _Counter) -> list[Cost]:
    def cost(origin: Origin, target: str, module: nn.Module, aggregated: int) -> Cost:
        macs = counter.macs.get(target, Counter[Any]())
        return Cost(
            stage=origin.stage,
            node=origin.node,
            part=origin.part,  # pyright: ignore[reportArgumentType]
            params=sum(p.numel() for p in module.parameters()),
            conv_macs=macs[_CONVOLUTION],
            macs=macs.total() + aggregated,
            activations=counter.activations[target],
        )

    rows: list[Cost] = []
    by_name = {stage.name: stage for stage in graph.stages}
    for call in model.graph.find_nodes(op="call_module"):
        target = str(call.target)
        module = model.get_submodule(target)
        if target not in by_name:
            rows.append(cost(call.meta["graphc"], target, module, 0))
            continue
        assert isinstance(module, fx.GraphModule)
        elements = {node.name: _elements(node.in_shape) for node in by_name[target].nodes}
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
