from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from compiler.passes._base import PASSES, Pass
from graphspec import CATALOGUE, BlockCall, NetworkGraph, Node, Report, StageGraph
from graphspec.catalogue import Entry
from graphspec.graph import Shape, SpecPath


@PASSES.register
@dataclass(frozen=True)
class InferShapes(Pass):
    """Writes the input and output shape of every node, for the spec's `input_shape`.

    1. A summed or averaged node needs sources of one shape; a concatenated one adds their
       channels and needs one height and width.
    2. A block puts out its node's width, or what it receives if its kind keeps channels;
       height and width are divided by the stride, rounded as the kind says.
    3. A node without a block hands on what it gathers.

    Shapes that do not fit are errors at the node, naming the sources and both shapes.
    """

    name: ClassVar[str] = "infer-shapes"

    def run(self, graph: NetworkGraph, report: Report) -> NetworkGraph:
        channels = graph.input_shape[0]
        stem_shape = apply(
            CATALOGUE.stems[graph.stem.kind],
            graph.stem,
            graph.input_shape,
            graph.stem_width or channels,
            graph.stem_stride,
            report,
        )
        shapes: dict[str, Shape | None] = {"stem": stem_shape}
        stages: list[StageGraph] = []
        for stage in graph.stages:
            inputs = [shapes[name] for name in stage.inputs]
            known = [shape for shape in inputs if shape is not None]
            if len(known) == len(inputs):
                stage = infer_stage(stage, known, report)
            stages.append(stage)
            shapes[stage.name] = stage.nodes[-1].out_shape
        return replace(graph, stages=tuple(stages), stem_shape=stem_shape)


def infer_stage(stage: StageGraph, inputs: list[Shape], report: Report) -> StageGraph:
    """The stage with shapes; what follows from an error keeps None and is not reported."""
    nodes: list[Node] = []
    sources: dict[int, list[int]] = {}
    for edge in stage.edges:
        sources.setdefault(edge.target, []).append(edge.source)
    for index, node in enumerate(stage.nodes):
        if node.role == "input":
            gathered = inputs[index]
        else:
            gathered = gather(stage, node, [nodes[i] for i in sources.get(index, [])], report)
        out_shape = None
        if gathered is not None:
            out_shape = transform(node, gathered, report)
        nodes.append(replace(node, in_shape=gathered, out_shape=out_shape))
    return replace(stage, nodes=tuple(nodes))


def gather(stage: StageGraph, node: Node, sources: list[Node], report: Report) -> Shape | None:
    """What a node receives from `sources`, None if that is wrong or unknown."""
    shapes = [source.out_shape for source in sources if source.out_shape is not None]
    if not shapes or len(shapes) < len(sources):
        return None
    compared = [shape[1:] if node.aggregate == "concat" else shape for shape in shapes]
    first = compared[0]
    for source, shape in zip(sources, compared, strict=True):
        if shape != first:
            report.error(
                "shape-mismatch",
                node.path,
                f"{stage.name}.{node.name} cannot {node.aggregate} "
                f"{_text(shapes[0])} from {stage.name}.{sources[0].name} and "
                f"{_text(source.out_shape)} from {stage.name}.{source.name}",
                _advice(node, sources),
            )
            return None
    if node.aggregate == "concat":
        return (sum(shape[0] for shape in shapes), *shapes[0][1:])
    return shapes[0]


def transform(node: Node, shape: Shape, report: Report) -> Shape | None:
    """What a node puts out when it receives `shape`."""
    if node.block is None:
        if node.stride != 1:
            report.error(
                "stride-without-block",
                node.path,
                f"node {node.name!r} has stride {node.stride} but no block to take it",
                "give the node a block, e.g. {kind: conv_bn_relu, kernel: 1}",
            )
            return None
        return shape
    entry = CATALOGUE.blocks[node.block.kind]
    return apply(entry, node.block, shape, node.width or shape[0], node.stride, report)


def apply(
    entry: Entry, call: BlockCall, shape: Shape, width: int, stride: int, report: Report
) -> Shape | None:
    """The output shape of one block; checks what its kind asks of channels and stride."""
    channels, height, width_px = shape
    out_channels = channels if entry.keeps_channels else width
    path = call.path
    if entry.strides is not None and stride not in entry.strides:
        report.error(
            "stride-not-allowed",
            path,
            f"{call.kind} cannot have stride {stride}",
            f"allowed: {', '.join(map(str, entry.strides))}",
        )
        return None
    sizes = {"in_channels": channels, "out_channels": out_channels}
    if not _divides(entry, call, sizes, path, report):
        return None
    if entry.rounding == "floor":
        size = (height // stride, width_px // stride)
    else:
        size = (-(-height // stride), -(-width_px // stride))
    if 0 in size:
        report.error(
            "image-too-small",
            path,
            f"{call.kind} with stride {stride} leaves nothing of {height}x{width_px} pixels",
            "make input_shape larger, or use fewer strides",
        )
        return None
    return (out_channels, *size)


def _divides(
    entry: Entry, call: BlockCall, sizes: dict[str, int], path: SpecPath, report: Report
) -> bool:
    params = dict(call.params)
    for name, names in entry.divides.items():
        divisor = params[name]
        for channels in names:
            if divisor and sizes[channels] % divisor:
                report.error(
                    "not-divisible",
                    (*path, name),
                    f"{call.kind} needs {channels} divisible by {name}, "
                    f"but {sizes[channels]} is not divisible by {divisor}",
                    f"change {name} or the width",
                )
                return False
    return True


def _advice(node: Node, sources: list[Node]) -> str:
    if any(source.role == "input" and source.block is None for source in sources):
        return (
            "the stage's input node hands on what it receives; give the stage an input_node "
            "that takes the stride and the width, e.g. {kind: conv_bn_relu, kernel: 1}"
        )
    if node.aggregate != "concat":
        return "make the widths and strides of these nodes agree, or use aggregate: concat"
    return "make the strides of these nodes agree"


def _text(shape: Shape | None) -> str:
    return "x".join(map(str, shape or ()))
