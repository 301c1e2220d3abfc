"""The whole network as one picture: stem, stages from top to bottom, head, and a legend."""

from __future__ import annotations

from collections.abc import Mapping

from compiler.drawing.panel import (
    EDGE_LINES,
    FAINT,
    OUTLINE,
    PLAIN_FILL,
    ROUTER_MARK,
    SOFT,
    Panel,
    block_text,
    draw_stage,
    router_mark,
    shape_text,
)
from compiler.drawing.picture import (
    Curve,
    Item,
    Line,
    Picture,
    Polygon,
    Rectangle,
    Words,
    arrowhead,
    polyline,
    straight,
    text_width,
)
from graphspec.graph import NetworkGraph, StageGraph

MARGIN = 20.0
FLOW_GAP = 40.0
FLOW_X = 48.0
LEGEND_GAP = 24.0
LANE = 12.0
FLOW = Line("#5b6470", 1.4)
PANEL_LINE = Line("#c9ced6", 1.0)
PANEL_FILL = "#fcfcfd"
TINTS = (
    *("#dbe9f6", "#e3f1d9", "#fde6cf", "#e9dff2", "#f9dce2", "#d8f0ee", "#f6f0c4", "#e7e2da"),
    *("#cfd8ea", "#cfe8c6", "#f7d3b5", "#d8c8ea", "#f2c4cf", "#bfe3df"),
)


def draw_network(graph: NetworkGraph, stage: str | None = None) -> Picture:
    """The network, or one stage of it.

    Raises:
        KeyError: the network has no stage of that name.
    """
    fills = block_fills(graph)
    if stage is not None:
        chosen = {each.name: each for each in graph.stages}[stage]
        panel = draw_stage(chosen, fills)
        items = [item.moved(MARGIN, MARGIN) for item in _framed(panel, panel.width)]
        return _with_legend(
            f"{graph.name}.{stage}", items, panel.width, MARGIN + panel.height, (chosen,), fills
        )
    panels = [draw_stage(each, fills) for each in graph.stages]
    skips = _skips(graph)
    left = MARGIN + LANE * len(skips) + (8 if skips else 0)
    items: list[Item] = [Words(MARGIN, MARGIN + 12, graph.name, 16, bold=True)]
    y = _flow(items, left, MARGIN + 24, shape_text(graph.input_shape), is_joined=True)
    tops, bottoms = {"stem": y}, {"stem": _block_box(items, left, y, "stem", _stem_text(graph))}
    before, shape, y = "stem", graph.stem_shape, bottoms["stem"]
    for each, panel in zip(graph.stages, panels, strict=True):
        y = _flow(items, left, y, shape_text(shape), before in each.inputs)
        items += [item.moved(left, y) for item in _framed(panel, panel.width)]
        tops[each.name], bottoms[each.name] = y, y + panel.height
        before, shape, y = each.name, each.nodes[-1].out_shape, y + panel.height
    y = _flow(items, left, y, shape_text(shape), is_joined=True)
    y = _block_box(items, left, y, "head", _head_text(graph))
    for lane, (source, target) in enumerate(skips):
        x = left - 8 - LANE * (lane + 0.5)
        down, up = bottoms[source] - 8 - 5 * (lane % 5), tops[target] + 8 + 5 * (lane % 5)
        data = (("source", source), ("target", target))
        corners = ((left, down), (x, down), (x, up), (left, up))
        items.append(Curve(polyline(*corners), FLOW, f"{source} → {target}", data))
        items.append(Polygon(arrowhead((left, up), (1, 0)), FLOW.color, data))
    width = left - MARGIN + max(panel.width for panel in panels)
    return _with_legend(graph.name, items, width, y, graph.stages, fills)


def _stem_text(graph: NetworkGraph) -> str:
    width = f", {graph.stem_width} channels" if graph.stem_width else ""
    return f"{block_text(graph.stem)}{width}, /{graph.stem_stride}"


def _head_text(graph: NetworkGraph) -> str:
    return f"{block_text(graph.head)}, {graph.num_classes} classes"


def block_fills(graph: NetworkGraph) -> Mapping[str, str]:
    """A tint for every kind of block the stages use, by name, so that it is always the same."""
    kinds = sorted(
        {node.block.kind for stage in graph.stages for node in stage.nodes if node.block}
    )
    return {kind: TINTS[place % len(TINTS)] for place, kind in enumerate(kinds)}


def _skips(graph: NetworkGraph) -> list[tuple[str, str]]:
    """Which stages read others than the one right before them."""
    names = ["stem", *(stage.name for stage in graph.stages)]
    return [
        (source, stage.name)
        for before, stage in zip(names, graph.stages, strict=False)
        for source in dict.fromkeys(stage.inputs)
        if source != before
    ]


def _framed(panel: Panel, width: float) -> list[Item]:
    frame = Rectangle(0, 0, width, panel.height, PANEL_FILL, PANEL_LINE, 6)
    return [frame, *panel.items]


def _flow(items: list[Item], left: float, y: float, label: str, is_joined: bool) -> float:
    """An arrow down to the next part, with the shape that goes along it."""
    x, end = left + FLOW_X, y + FLOW_GAP
    if is_joined:
        items.append(Curve(straight((x, y + 3), (x, end - 3)), FLOW))
        items.append(Polygon(arrowhead((x, end - 2), (0, 1), 6), FLOW.color))
        if label:
            items.append(Words(x + 9, y + FLOW_GAP / 2 + 4, label, 10.5, color=SOFT))
    return end


def _block_box(items: list[Item], left: float, y: float, name: str, text: str) -> float:
    """The stem or the head; returns where it ends."""
    width = max(2 * FLOW_X, text_width(name, 12, bold=True) + 28, text_width(text, 10.5) + 28)
    data = (("node", name),)
    items += [
        Rectangle(left, y, width, 44, PLAIN_FILL, OUTLINE, 6, f"{name}\n{text}", data),
        Words(left + 14, y + 18, name, 12, bold=True),
        Words(left + 14, y + 34, text, 10.5, color=SOFT),
    ]
    return y + 44


# ---- legend

_EDGE_WORDS = {
    "fixed": "fixed edge",
    "learned": "learned edge: one weight",
    "routed": "routed edge: a weight for every sample",
}


def _with_legend(
    title: str,
    items: list[Item],
    width: float,
    bottom: float,
    stages: tuple[StageGraph, ...],
    fills: Mapping[str, str],
) -> Picture:
    entries = _legend(stages, fills)
    width = max(
        [width, *(_right(item) - MARGIN for item in items)]
        + [34 + text_width(words, 9.5) for _, words in entries]
    )
    x, y = MARGIN, bottom + LEGEND_GAP + 6
    for samples, words in entries:
        advance = (32 if samples else 0) + text_width(words, 9.5) + 22
        if x > MARGIN and x + advance - 22 > MARGIN + width:
            x, y = MARGIN, y + 18
        items += [item.moved(x, y) for item in samples]
        items.append(Words(x + (32 if samples else 0), y, words, 9.5, color=SOFT))
        x += advance
    line = Curve(straight((MARGIN, bottom + 12), (MARGIN + width, bottom + 12)), Line(FAINT, 0.4))
    return Picture(title, width + 2 * MARGIN, y + MARGIN, (*items, line))


def _right(item: Item) -> float:
    match item:
        case Words():
            return item.right
        case Rectangle():
            return item.x + item.width
        case Curve() | Polygon():
            return max(x for x, _ in item.points)


def _legend(
    stages: tuple[StageGraph, ...], fills: Mapping[str, str]
) -> list[tuple[tuple[Item, ...], str]]:
    """Samples, relative to the baseline of the words that explain them."""
    kinds = {edge.weights.kind for stage in stages for edge in stage.edges}
    nodes = [node for stage in stages for node in stage.nodes]
    used = {node.block.kind for node in nodes if node.block}
    entries: list[tuple[tuple[Item, ...], str]] = [
        ((Curve(straight((0, -4), (26, -4)), line),), _EDGE_WORDS[kind])
        for kind, line in EDGE_LINES.items()
        if kind in kinds
    ]
    if any(node.router for node in nodes):
        entries.append(((Polygon(router_mark(20, -6), ROUTER_MARK),), "node with a router"))
    entries += [
        ((Rectangle(4, -10, 22, 12, fill, OUTLINE, 3),), kind)
        for kind, fill in fills.items()
        if kind in used
    ]
    if any(not node.block for node in nodes):
        entries.append(((Rectangle(4, -10, 22, 12, PLAIN_FILL, OUTLINE, 6),), "no block"))
    entries += [((), f"/{stride}: stride {stride}") for stride in _strides(stages)]
    entries.append(((), "edges run from left to right; those of one node may begin as one"))
    return entries


def _strides(stages: tuple[StageGraph, ...]) -> list[int]:
    return sorted({node.stride for stage in stages for node in stage.nodes} - {1})
