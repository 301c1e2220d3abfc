"""The text of a graph: what a person reads, and what tests compare.

Equal graphs print alike in every process, and different graphs print differently.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from graphspec.graph import BlockCall, NetworkGraph, Node, Shape, StageGraph
from graphspec.weights import EdgeWeights, Fixed


def format_graph(graph: NetworkGraph) -> str:
    """The network as text, one line a node: its name, block, shape, and what it gathers.

    `n1..n4` are nodes n1 to n4; what weighs or joins edges is written around their sources, as
    in `mean(routed(input, n1..n4), n5)`; a bare list is summed with weight 1. Parameters of
    blocks and edge weights stand once, above the nodes of their stage.
    """
    stem_size = _size(None, graph.stem_shape, graph.stem_width, graph.stem_stride)
    lines = [
        f"network {graph.name}",
        f"input   {_shape(graph.input_shape)}",
        f"stem    {_call(graph.stem)}  {stem_size}".rstrip(),
    ]
    for stage in graph.stages:
        lines += ["", *_stage_lines(stage)]
    lines += ["", f"head    {_call(graph.head)}  {graph.num_classes} classes"]
    return "\n".join(lines) + "\n"


def format_stage(stage: StageGraph) -> str:
    """The part of `format_graph` that shows one stage."""
    return "\n".join(_stage_lines(stage)) + "\n"


def name_ranges(names: Iterable[str]) -> str:
    """Node names by comma, runs of numbered ones shortened: `input, n1..n4, n6`."""
    runs = list[list[str]]()
    for name in names:
        if runs and _follows(runs[-1][-1], name):
            runs[-1].append(name)
        else:
            runs.append([name])
    return ", ".join(f"{run[0]}..{run[-1]}" if len(run) > 2 else ", ".join(run) for run in runs)


def _stage_lines(stage: StageGraph) -> Iterator[str]:
    calls = [node.block for node in stage.nodes if node.block is not None]
    blocks = _Legend((call.kind, dict(call.params)) for call in calls)
    weights = _Legend(
        _setting(edge.weights) for edge in stage.edges if not isinstance(edge.weights, Fixed)
    )
    rows = [
        (
            node.name,
            blocks.label(node.block.kind, dict(node.block.params)) if node.block else "identity",
            _size(node.in_shape, node.out_shape, node.width, node.stride),
            _gathered(stage, index, weights),
            _routed(stage, node),
        )
        for index, node in enumerate(stage.nodes)
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    counts = f"{len(stage.nodes)} nodes, {len(stage.edges)} edges"
    yield f"stage {stage.name} <- {', '.join(stage.inputs)}  ({counts})"
    yield from (f"  block {line}" for line in blocks.lines())
    yield from (f"  edges {line}" for line in weights.lines())
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True) if width]
        yield "  " + "  ".join(cells).rstrip()


class _Legend:
    """Short labels for settings: the kind alone for its commonest setting, else numbered."""

    def __init__(self, settings: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
        counts = Counter((kind, _params(params)) for kind, params in settings)
        self._labels: dict[tuple[str, str], str] = {}
        self._kinds = Counter[str]()
        for kind, params in sorted(counts, key=lambda setting: -counts[setting]):
            self._kinds[kind] += 1
            number = self._kinds[kind]
            self._labels[kind, params] = kind if number == 1 else f"{kind}:{number}"

    def label(self, kind: str, params: Mapping[str, Any]) -> str:
        return self._labels[kind, _params(params)]

    def lines(self) -> Iterator[str]:
        """What each label stands for, where that is more than its kind."""
        for (kind, params), label in self._labels.items():
            if params or self._kinds[kind] > 1:
                yield f"{label}: {params or 'no parameters'}"


def _gathered(stage: StageGraph, target: int, legend: _Legend) -> str:
    groups = dict[EdgeWeights, list[str]]()
    for edge in stage.sources_of(target):
        groups.setdefault(edge.weights, []).append(stage.nodes[edge.source].name)
    if not groups:
        return ""
    terms = ", ".join(_term(weights, names, legend) for weights, names in groups.items())
    aggregate = stage.nodes[target].aggregate
    return f"<- {terms}" if aggregate == "sum" else f"<- {aggregate}({terms})"


def _term(weights: EdgeWeights, names: Sequence[str], legend: _Legend) -> str:
    if not isinstance(weights, Fixed):
        return f"{legend.label(*_setting(weights))}({name_ranges(names)})"
    ranges = name_ranges(names)
    return ranges if weights.value == 1 else f"{weights.value}*({ranges})"


def _setting(weights: EdgeWeights) -> tuple[str, dict[str, Any]]:
    params = weights.model_dump()
    return params.pop("kind"), params


def _routed(stage: StageGraph, node: Node) -> str:
    """The nodes that the node's router weighs the edges to, once `place-routers` has run."""
    if node.router is None:
        return ""
    return f"router -> {name_ranges(stage.nodes[i].name for i in node.router.targets)}"


def _size(received: Shape | None, handed_on: Shape | None, width: int | None, stride: int) -> str:
    """Shapes once they are known, until then what was asked for; and the stride."""
    steps = [f"stride {stride}"] if stride != 1 else []
    if handed_on is None:
        return ", ".join([f"width {width}", *steps] if width is not None else steps)
    if received not in (None, handed_on):
        return ", ".join([f"{_shape(received)} -> {_shape(handed_on)}", *steps])
    return ", ".join([_shape(handed_on), *steps])


def _shape(shape: Shape) -> str:
    return "x".join(map(str, shape))


def _call(call: BlockCall) -> str:
    return f"{call.kind}({_params(dict(call.params))})" if call.params else call.kind


def _params(params: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={_value(value)}" for name, value in params.items())


def _value(value: Any) -> str:
    """As YAML's flow style has it."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _follows(name: str, successor: str) -> bool:
    """Whether two names differ by a number that is one higher, as n2 and n3."""
    first, second = _NUMBERED.fullmatch(name), _NUMBERED.fullmatch(successor)
    return (
        first is not None
        and second is not None
        and first["stem"] == second["stem"]
        and int(first["number"]) + 1 == int(second["number"])
    )


_NUMBERED = re.compile(r"(?P<stem>.*?)(?P<number>0|[1-9][0-9]*)")
