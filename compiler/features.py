"""Where a network's features can be taken, and what they are, known from its graph. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from graphspec import NetworkGraph, StageGraph


@dataclass(frozen=True)
class Level:
    """The output of a stage, or of the stem: its name, channels, and stride to the image."""

    name: str
    channels: int
    stride: int


def levels(graph: NetworkGraph) -> tuple[Level, ...]:
    """All levels in order; `graph` has been through `analyze`. A stem `identity` is none."""
    assert graph.stem_shape is not None, "infer-shapes runs before"
    strides = {"stem": graph.stem_stride}
    found = [Level("stem", graph.stem_shape[0], graph.stem_stride)]
    for stage in graph.stages:
        strides[stage.name] = _stride(stage, strides)
        shape = stage.nodes[-1].out_shape
        assert shape is not None, "infer-shapes runs before"
        found.append(Level(stage.name, shape[0], strides[stage.name]))
    return tuple(found if graph.stem.kind != "identity" else found[1:])


def pyramid(graph: NetworkGraph) -> tuple[Level, ...]:
    """The last level of each stride, from fine to coarse, without the stem's own."""
    by_stride = {level.stride: level for level in levels(graph) if level.name != "stem"}
    return tuple(by_stride[stride] for stride in sorted(by_stride))


def _stride(stage: StageGraph, strides: dict[str, int]) -> int:
    """The stride to the image at a stage's output; all sources of a node have one."""
    by_node: list[int] = []
    for index, node in enumerate(stage.nodes):
        if node.role == "input":
            before = strides[stage.inputs[index]]
        else:
            before = by_node[stage.sources_of(index)[0].source]
        by_node.append(before * node.stride)
    return by_node[-1]
