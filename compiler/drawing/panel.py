"""One stage as a picture: its captions, its nodes and edges, and for dense stages its matrix."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from compiler.drawing.layout import Layout, arrange
from compiler.drawing.picture import (
    Curve,
    Item,
    Line,
    Point,
    Polygon,
    Rectangle,
    Words,
    arrowhead,
    text_width,
)
from graphspec.graph import BlockCall, Edge, Node, Shape, StageGraph
from graphspec.weights import EdgeWeights, Learned, Routed

SOFT = "#444444"
FAINT = "#8a8a8a"
PLAIN_FILL = "#ffffff"
OUTLINE = Line("#5b6470", 1.0)
ROUTER_MARK = "#b34700"
EDGE_LINES: Mapping[str, Line] = {
    "fixed": Line("#4d4d4d", 1.0),
    "learned": Line("#0072b2", 1.1, (5, 3)),
    "routed": Line("#d55e00", 1.1, (1.5, 2)),
}
"""Told apart by dashes as well as by colour, for print and for the colour-blind."""
CELL_FILLS: Mapping[str, str] = {"fixed": "#8a8a8a", "learned": "#5fa8d3", "routed": "#eda36b"}

NAME_SIZE = 10.5
DETAIL_SIZE = 8.5
PADDING = 16.0
MATRIX_GAP = 40.0


@dataclass(frozen=True)
class Panel:
    """Items of one stage, relative to the panel's upper left corner."""

    width: float
    height: float
    items: tuple[Item, ...]


def draw_stage(stage: StageGraph, fills: Mapping[str, str]) -> Panel:
    """The stage under its captions; `fills` says which colour a kind of block has."""
    common = common_block(stage)
    details = [node_details(stage, node, common) for node in stage.nodes]
    sizes = [box_size(node, lines) for node, lines in zip(stage.nodes, details, strict=True)]
    layout = arrange(stage, sizes)
    captions = _captions(stage, common)
    top = PADDING + 16 + 15 * len(captions) + 12
    items: list[Item] = [Words(PADDING, PADDING + 11, stage.name, 14, bold=True)]
    items += [
        Words(PADDING, PADDING + 28 + 15 * row, line, 10.5, color=SOFT)
        for row, line in enumerate(captions)
    ]
    body = [*_edges(stage, layout), *_nodes(stage, layout, details, fills)]
    width, height = layout.width, layout.height
    if layout.kind == "arcs" and len(stage.nodes) > 3:
        matrix = _matrix(stage)
        drop = max(0.0, matrix.height - height)
        shift = max(0.0, height - matrix.height)
        body = [item.moved(0, drop) for item in body]
        body += [item.moved(width + MATRIX_GAP, shift) for item in matrix.items]
        width, height = width + MATRIX_GAP + matrix.width, max(height, matrix.height)
    items += [item.moved(PADDING, top) for item in body]
    words = [item.right for item in items if isinstance(item, Words)]
    return Panel(max(width + PADDING, *words) + PADDING, top + height + PADDING, tuple(items))


# ---- words


def full_name(stage: StageGraph, node: Node) -> str:
    """The name that a node has everywhere else: in errors, in the code, in the state_dict."""
    return f"{stage.name}.{node.name}"


def shape_text(shape: Shape | None) -> str:
    """Channels x height x width."""
    return " × ".join(map(str, shape)) if shape else ""


def block_text(block: BlockCall) -> str:
    """The kind with its parameters, as one would say it."""
    params = ", ".join(f"{key} {_value(value)}" for key, value in block.params)
    return f"{block.kind} ({params})" if params else block.kind


def _value(value: object) -> str:
    """As the YAML has it."""
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


def common_block(stage: StageGraph) -> tuple[str, int | None] | None:
    """The kind and width of at least half of the block nodes: said once, above them."""
    calls = Counter(
        (node.block.kind, node.width) for node in stage.nodes if node.role == "block" and node.block
    )
    if not calls:
        return None
    (call, count), total = calls.most_common(1)[0], calls.total()
    return call if count > 1 and 2 * count >= total else None


def node_details(
    stage: StageGraph, node: Node, common: tuple[str, int | None] | None
) -> tuple[str, ...]:
    """What is said inside the node's box under its name: what its stage has not said."""
    lines: list[str] = []
    channels = node.out_shape[0] if node.out_shape else node.width
    if node.block and (node.block.kind, node.width) != common:
        lines.append(node.block.kind)
        if channels:
            lines.append(f"{channels} ch")
    gathers = len(stage.sources_of(_index(stage, node))) > 1
    if gathers and node.aggregate != _common_aggregate(stage):
        lines.append(node.aggregate)
    if node.stride != 1:
        lines.append(f"/{node.stride}")
    return tuple(lines)


def router_mark(x: float, y: float) -> tuple[Point, ...]:
    """A triangle that hangs under a box whose bottom is at `y`."""
    return ((x - 4, y), (x + 4, y), (x, y + 5.5))


def box_size(node: Node, details: Sequence[str]) -> tuple[float, float]:
    """Room for the name and the details."""
    widths = [text_width(node.name, NAME_SIZE)]
    widths += [text_width(line, DETAIL_SIZE) for line in details]
    return max(24.0, max(widths) + 12), 20.0 + 11 * len(details)


def _index(stage: StageGraph, node: Node) -> int:
    return next(index for index, other in enumerate(stage.nodes) if other is node)


def _common_aggregate(stage: StageGraph) -> str:
    blocks = Counter(node.aggregate for node in stage.nodes if node.role == "block")
    return blocks.most_common(1)[0][0] if blocks else stage.nodes[-1].aggregate


def _captions(stage: StageGraph, common: tuple[str, int | None] | None) -> list[str]:
    blocks = [node for node in stage.nodes if node.role == "block"]
    lines: list[str] = []
    if common:
        same = [node for node in blocks if node.block and (node.block.kind, node.width) == common]
        kind, width = common
        names = f"{full_name(stage, same[0])} … {full_name(stage, same[-1])}"
        channels = f", {width} channels" if width else ""
        lines.append(f"{len(same)} × {kind}{channels}  ({names})")
    weights = Counter(edge.weights for edge in stage.edges)
    noun = "node" if len(blocks) == 1 else "nodes"
    parts = [f"{len(blocks)} {noun}, {len(stage.edges)} edges"]
    if len({edge.target for edge in stage.edges}) < len(stage.edges):
        parts.append(_common_aggregate(stage))
    parts += [
        _weights_text(kind) + (f" ({count} edges)" if len(weights) > 1 else "")
        for kind, count in weights.most_common(3)
    ]
    lines.append("  ·  ".join(parts))
    if len(stage.inputs) > 1:
        lines.append("inputs: " + ", ".join(stage.inputs))
    return lines


def _weights_text(weights: EdgeWeights) -> str:
    if isinstance(weights, Routed):
        gate = "no gate" if weights.threshold is None else f"τ {weights.threshold:g}"
        return f"routed by {weights.router}, bias {weights.bias_init:g}, {gate}"
    if isinstance(weights, Learned):
        return f"learned, {weights.function}"
    value = getattr(weights, "value", 1.0)
    return "fixed" if value == 1 else f"fixed at {value:g}"


# ---- nodes and edges


def _nodes(
    stage: StageGraph, layout: Layout, details: Sequence[Sequence[str]], fills: Mapping[str, str]
) -> list[Item]:
    items: list[Item] = []
    for node, box, lines in zip(stage.nodes, layout.boxes, details, strict=True):
        data = (("node", full_name(stage, node)),)
        radius = 3.0 if node.role == "block" else box.height / 2
        fill = fills[node.block.kind] if node.block else PLAIN_FILL
        items.append(
            Rectangle(
                box.x,
                box.y,
                box.width,
                box.height,
                fill,
                OUTLINE,
                min(radius, 10.0),
                node_title(stage, node),
                data,
            )
        )
        center = box.x + box.width / 2
        if node.router:
            items.append(Polygon(router_mark(center, box.y + box.height), ROUTER_MARK, data))
        top = box.y + (box.height - box_size(node, lines)[1]) / 2
        items.append(Words(center, top + 14, node.name, NAME_SIZE, "middle"))
        items += [
            Words(center, top + 25 + 11 * row, line, DETAIL_SIZE, "middle", color=SOFT)
            for row, line in enumerate(lines)
        ]
    return items


def node_title(stage: StageGraph, node: Node) -> str:
    """All that is known of a node, for the pointer that rests on it."""
    index = _index(stage, node)
    sources = [full_name(stage, stage.nodes[e.source]) for e in stage.sources_of(index)]
    lines = [full_name(stage, node), block_text(node.block) if node.block else node.role]
    if node.stride != 1:
        lines.append(f"stride {node.stride}")
    if node.in_shape and node.out_shape:
        lines.append(f"{shape_text(node.in_shape)} → {shape_text(node.out_shape)}")
    if sources:
        lines.append(f"{node.aggregate} of {', '.join(sources)}")
    if node.router:
        lines.append(f"router {node.router.kind} of {len(node.router.targets)} edges")
    return "\n".join(lines)


def _edges(stage: StageGraph, layout: Layout) -> list[Item]:
    items: list[Item] = []
    crowded = len(stage.edges) > 120
    heads: list[Item] = []
    for edge, points in zip(stage.edges, layout.curves, strict=True):
        line = EDGE_LINES[edge.weights.kind]
        if crowded:
            line = Line(line.color, line.width * 0.6, line.dashes, 0.7)
        data = _edge_data(stage, edge)
        items.append(Curve(points, line, edge_title(stage, edge), data))
        if layout.kind != "arcs" or edge.target == edge.source + 1:
            size = 4.0 if layout.kind == "layers" else 5.0
            heads.append(Polygon(arrowhead(points[-1], (1, 0), size), line.color, data))
    return items + heads


def _edge_data(stage: StageGraph, edge: Edge) -> tuple[tuple[str, str], ...]:
    source, target = stage.nodes[edge.source], stage.nodes[edge.target]
    return (("source", full_name(stage, source)), ("target", full_name(stage, target)))


def edge_title(stage: StageGraph, edge: Edge) -> str:
    """What is known of an edge, for the pointer that rests on it."""
    (_, source), (_, target) = _edge_data(stage, edge)
    return f"{source} → {target}\n{_weights_text(edge.weights)}"


# ---- matrix


def _matrix(stage: StageGraph) -> Panel:
    """Which node reads which: rows are targets, columns sources, as in M[b, target, source]."""
    count = len(stage.nodes)
    cell = 12.0 if count <= 12 else 9.0 if count <= 30 else 5.0
    every = 1 if cell >= 9 else 5
    names = [node.name for node in stage.nodes]
    size = min(8.0, cell - 0.5) if every == 1 else 7.5
    margin = max(text_width(name, size) for name in names) + 6
    top = 20.0
    items: list[Item] = [
        Words(margin, 9, "M [target row, source column]", 8.5, color=SOFT),
        Rectangle(margin, top, cell * count, cell * count, "#f4f5f6"),
    ]
    items += [
        Words(margin - 4, top + cell * (row + 0.5) + size * 0.36, name, size, "end", color=SOFT)
        for row, name in enumerate(names)
        if row % every == 0 or row == count - 1
    ]
    items += [
        Rectangle(
            margin + cell * edge.source + 0.5,
            top + cell * edge.target + 0.5,
            cell - 1,
            cell - 1,
            CELL_FILLS[edge.weights.kind],
            title=edge_title(stage, edge),
            data=_edge_data(stage, edge),
        )
        for edge in stage.edges
    ]
    width = max(margin + cell * count, items[0].right if isinstance(items[0], Words) else 0)
    return Panel(width, top + cell * count, tuple(items))
