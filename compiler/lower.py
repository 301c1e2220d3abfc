"""NetworkGraph -> torch.fx.GraphModule: one fx graph a stage, and one that chains the stages.

The graphs are built by hand, never traced: every fx node keeps the spec's names, and its
origin in `node.meta["graphc"]`.
"""

from __future__ import annotations

import inspect
import types
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.overrides import TorchFunctionMode

from compiler import catalog
from compiler.construction import construct
from graphspec import Edge, Fixed, Learned, NetworkGraph, Node, Routed, StageGraph
from runtime.aggregate import Concat, LearnedSum, RoutedConcat, RoutedSum, Sum
from runtime.gating import Gate, NoScores
from runtime.outputs import Wiring
from runtime.weighted_sum import Tap


@dataclass(frozen=True)
class Origin:
    """Where an fx node comes from. `part` is what it does for the spec's node."""

    stage: str
    node: str
    part: str
    sources: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.stage}.{self.node}"


def lower(graph: NetworkGraph) -> fx.GraphModule:
    """Builds the modules of a graph, with their initial weights, and the program that runs them.

    Runs under the caller's default device, so that weights are initialised once and in place.

    Shape: the result maps (B, C, H, W) images to (B, num_classes) logits
    """
    if torch.get_default_device().type == "meta":
        with NoDraws():
            return _lower(graph)
    return _lower(graph)


class NoDraws(TorchFunctionMode):
    """Leaves weights undrawn that nobody reads; on "meta" torch loads its compiler to draw.

    Of draws on other devices only torch's own initialisers are left out: others may draw until
    they like what they have.
    """

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        # Some of torch's initialisers tell a mode that they are called, others only what they draw.
        is_draw = func in _DRAWS and (args[0].is_meta or _caller() in _DRAW_ONCE)
        if is_draw or getattr(func, "__module__", "") == nn.init.__name__:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


_DRAWS = {torch.Tensor.normal_, torch.Tensor.uniform_}
_DRAW_ONCE = {nn.init.kaiming_normal_.__code__, nn.init.xavier_normal_.__code__}


def _caller() -> types.CodeType | None:
    """The function that called what a mode has intercepted."""
    frame = inspect.currentframe()
    for _ in range(2):
        frame = frame and frame.f_back
    return frame and frame.f_code


def _lower(graph: NetworkGraph) -> fx.GraphModule:
    root = nn.Module()
    program = fx.Graph()
    values: dict[str, fx.Node] = {"stem": program.placeholder("x")}
    values["stem"].meta["graphc"] = Origin("", "", "input")
    shape = graph.stem_shape
    assert shape is not None, "infer-shapes runs before lowering"
    if graph.stem.kind != "identity":
        stem = catalog.make_stem(graph.stem, graph.input_shape[0], shape[0], graph.stem_stride)
        root.add_module("stem", stem)
        values["stem"] = _call(program, "stem", (values["stem"],), Origin("stem", "", "block"))
    for stage in graph.stages:
        root.add_module(stage.name, lower_stage(stage))
        inputs = tuple(values[name] for name in stage.inputs)
        values[stage.name] = _call(program, stage.name, inputs, Origin(stage.name, "", "stage"))
    features = values[graph.stages[-1].name]
    channels = graph.stages[-1].nodes[-1].out_shape
    assert channels is not None, "infer-shapes runs before lowering"
    root.add_module("head", catalog.make_head(graph.head, channels[0], graph.num_classes))
    program.output(_call(program, "head", (features,), Origin("head", "", "block")))
    program.lint()
    return fx.GraphModule(root, program, class_name=_class_name(graph.name))


def lower_stage(stage: StageGraph) -> fx.GraphModule:
    """The program of one stage: its inputs' features to its output node's.

    Shape: one (B, C, H, W) an input node -> (B, C', H', W')
    """
    root, program = nn.Module(), fx.Graph()
    plan = _Routes(stage)
    threshold = None
    if plan.receivers and plan.setting.threshold is not None:
        tau = torch.full((len(plan.receivers),), plan.setting.threshold)
        if plan.setting.learnable_threshold:
            root.register_parameter("threshold", nn.Parameter(tau))
        else:
            root.register_buffer("threshold", tau)
    placeholders = [program.placeholder(f"{name}_features") for name in stage.inputs]
    for name, placeholder in zip(stage.inputs, placeholders, strict=True):
        placeholder.meta["graphc"] = Origin(stage.name, name, "input")
    if hasattr(root, "threshold"):
        threshold = program.get_attr("threshold")
        threshold.meta["graphc"] = Origin(stage.name, "", "threshold")

    values: list[fx.Node] = []
    adjacency: fx.Node | None = None
    shared = _shared(stage, is_routed=bool(plan.receivers))
    for index, node in enumerate(stage.nodes):
        edges = stage.sources_of(index)
        if node.role == "input":
            value = placeholders[index]
        else:
            value = _gather(root, program, stage, index, edges, values, adjacency)
        if node.block is not None:
            root.add_module(node.name, _block(node))
            origin = Origin(stage.name, node.name, "block")
            value = _call(program, node.name, (value,), origin, _fx_name(node))
        if index in shared:
            _add(root, "tap", node.name, construct(Tap))
            origin = Origin(stage.name, node.name, "tap")
            value = _call(program, f"tap.{node.name}", (value,), origin)
        values.append(value)
        if plan.receivers and node.role != "output":
            adjacency = _route(
                root,
                program,
                stage,
                index,
                value,
                adjacency,
                threshold,
                plan,
                is_tapped=index in shared,
            )
    program.output(values[-1])
    program.lint()
    module = fx.GraphModule(root, program, class_name=_class_name(stage.name))
    # Of all that a GraphModule holds, only the modules that its graph calls outlive both
    # pickle and deepcopy; the output node's sum is in every stage.
    output_sum: Any = module.get_submodule("aggregate.output")
    output_sum.wiring = _wiring(stage, root)
    return module


def _shared(stage: StageGraph, *, is_routed: bool) -> set[int]:
    """The nodes whose values several weighted sums use."""
    uses: Counter[int] = Counter()
    for index, node in enumerate(stage.nodes):
        edges = stage.sources_of(index)
        is_weighted = is_routed or any(isinstance(edge.weights, Learned) for edge in edges)
        if node.aggregate != "concat" and is_weighted:
            uses.update(edge.source for edge in edges)
    return {index for index, count in uses.items() if count > 1}


def _wiring(stage: StageGraph, root: nn.Module) -> Wiring:
    aggregations = {name for name, _ in root.named_modules()}
    rows: list[tuple[int, tuple[int, ...], str]] = []
    for index, node in enumerate(stage.nodes):
        sources = tuple(edge.source for edge in stage.sources_of(index))
        name = f"aggregate.{node.name}"
        if sources:
            rows.append((index, sources, name if name in aggregations else ""))
    return Wiring(tuple(node.name for node in stage.nodes), tuple(rows))


def _block(node: Node) -> nn.Module:
    assert node.block is not None and node.in_shape is not None and node.out_shape is not None
    return catalog.make_block(node.block, node.in_shape[0], node.out_shape[0], node.stride)


def _gather(
    root: nn.Module,
    program: fx.Graph,
    stage: StageGraph,
    index: int,
    edges: Sequence[Edge],
    values: Sequence[fx.Node],
    adjacency: fx.Node | None,
) -> fx.Node:
    """Appends what node `index` gathers; a block fed by one edge of weight 1 needs no sum."""
    node = stage.nodes[index]
    sources = [values[edge.source] for edge in edges]
    is_copy = adjacency is None and len(edges) == 1 and edges[0].weights == Fixed()
    if is_copy and node.role != "output":
        return sources[0]
    arguments: tuple[object, ...] = (sources,)
    if node.aggregate == "concat":
        module: nn.Module = construct(Concat)
        if adjacency is not None:
            shapes = [stage.nodes[edge.source].out_shape or (0,) for edge in edges]
            channels = [shape[0] for shape in shapes]
            module = construct(RoutedConcat, index, [edge.source for edge in edges], channels)
            arguments = (sources, adjacency)
    elif adjacency is not None:
        module = construct(
            RoutedSum, index, [edge.source for edge in edges], mean=node.aggregate == "mean"
        )
        arguments = (sources, adjacency)
    else:
        module = _static_sum(edges, mean=node.aggregate == "mean")
    _add(root, "aggregate", node.name, module)
    names = tuple(stage.nodes[edge.source].name for edge in edges)
    origin = Origin(stage.name, node.name, "aggregate", names)
    return _call(program, f"aggregate.{node.name}", arguments, origin)


def _static_sum(edges: Sequence[Edge], *, mean: bool) -> nn.Module:
    learned = [edge.weights for edge in edges if isinstance(edge.weights, Learned)]
    fixed = [edge.weights.value if isinstance(edge.weights, Fixed) else None for edge in edges]
    if learned:
        init = [weights.init for weights in learned]
        return construct(LearnedSum, fixed, function=learned[0].function, init=init, mean=mean)
    return construct(Sum, [value for value in fixed if value is not None], mean=mean)


class _Routes:
    """What the gates of a stage need to know: who receives routed edges, who can be removed."""

    def __init__(self, stage: StageGraph) -> None:
        routed = [edge for edge in stage.edges if isinstance(edge.weights, Routed)]
        self.receivers = sorted({edge.target for edge in routed})
        self.setting = next(
            (edge.weights for edge in routed if isinstance(edge.weights, Routed)), Routed()
        )
        self.removable: set[int] = set()
        for index, node in enumerate(stage.nodes):
            if node.role == "block" and all(
                isinstance(edge.weights, Routed) or edge.source in self.removable
                for edge in stage.sources_of(index)
            ):
                self.removable.add(index)


def _route(
    root: nn.Module,
    program: fx.Graph,
    stage: StageGraph,
    index: int,
    value: fx.Node,
    adjacency: fx.Node | None,
    threshold: fx.Node | None,
    plan: _Routes,
    *,
    is_tapped: bool,
) -> fx.Node:
    """Appends router and gate of node `index`; returns the adjacency with its column."""
    node = stage.nodes[index]
    if node.router is None:
        router: nn.Module = construct(NoScores)
    else:
        assert node.out_shape is not None
        router = catalog.make_router(
            node.router.kind,
            node.out_shape[0],
            len(node.router.targets),
            bias_init=plan.setting.bias_init,
        )
    _add(root, "router", node.name, router)
    origin = Origin(stage.name, node.name, "router")
    scores = _call(program, f"router.{node.name}", (value,), origin)

    out = stage.targets_of(index)
    learned = [(e.target, e.weights) for e in out if isinstance(e.weights, Learned)]
    routed = node.router.targets if node.router else ()
    gate = construct(
        Gate,
        index,
        len(stage.nodes),
        routed=routed,
        thresholds=[plan.receivers.index(target) for target in routed],
        learned=[target for target, _ in learned],
        fixed=[(e.target, e.weights.value) for e in out if isinstance(e.weights, Fixed)],
        function=learned[0][1].function if learned else "sigmoid",
        init=[weights.init for _, weights in learned],
        removable=index in plan.removable,
        rule=plan.setting.inference,
    )
    _add(root, "gate", node.name, gate)
    origin = Origin(stage.name, node.name, "gate")
    arguments = (scores, adjacency, threshold, *((value,) if is_tapped else ()))
    return _call(program, f"gate.{node.name}", arguments, origin)


def _add(root: nn.Module, group: str, name: str, module: nn.Module) -> None:
    """Adds `module` as `<group>.<name>`; groups keep the stage's own names for its blocks."""
    if not hasattr(root, group):
        root.add_module(group, nn.Module())
    getattr(root, group).add_module(name, module)


def _call(
    program: fx.Graph,
    target: str,
    arguments: tuple[object, ...],
    origin: Origin,
    name: str | None = None,
) -> fx.Node:
    name = name or target.replace(".", "_")
    node = program.create_node("call_module", target, arguments, {}, name=name)  # pyright: ignore[reportArgumentType]
    node.meta["graphc"] = origin
    return node


def _fx_name(node: Node) -> str:
    # fx renames instructions that shadow builtins: `input` would come out as `input_1`.
    return f"{node.name}_node" if node.role == "input" else node.name


def _class_name(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))
