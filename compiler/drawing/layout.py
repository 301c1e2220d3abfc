"""Where the nodes and edges of one stage stand, relative to the stage's own corner.

Three layouts, chosen by `arrange`:

- chain: no node has two inputs or two outputs. One row of boxes, folded when it gets long.
- arcs: the longest path visits most nodes (complete, residual), so layers would hold one node
  each and every other edge would have to pass them all. Nodes in a row, edges as arcs above.
- layers: everything else (random and hand-drawn stages). Longest-path layers from left to
  right, ordered by barycentre; long edges that leave one node share a lane.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from compiler.drawing.picture import Point, straight
from graphspec.graph import Edge, StageGraph

Size = tuple[float, float]

ARCS_ABOVE = 0.8
"""A stage is drawn as arcs where its longest path visits more than this part of its nodes."""
ROW_WIDTH = 1000.0
BOX_GAP = 14.0
CHAIN_GAP = 30.0
ROW_GAP = 34.0
LANE = 8.0
COLUMN_GAP = 46.0
NODE_GAP = 12.0
PORT = 4.5


@dataclass(frozen=True)
class Box:
    """The rectangle of a node; `x`, `y` is its upper left corner."""

    x: float
    y: float
    width: float
    height: float

    @property
    def middle(self) -> float:
        return self.y + self.height / 2


@dataclass(frozen=True)
class Layout:
    """Boxes by node index, one curve an edge in the order of the stage's edges."""

    kind: str
    width: float
    height: float
    boxes: tuple[Box, ...]
    curves: tuple[tuple[Point, ...], ...]


def arrange(stage: StageGraph, sizes: Sequence[Size]) -> Layout:
    """Places a stage whose nodes need boxes of the given sizes."""
    inputs = [edge.target for edge in stage.edges]
    outputs = [edge.source for edge in stage.edges]
    if len(set(inputs)) == len(inputs) and len(set(outputs)) == len(outputs):
        return _chain(stage, sizes)
    if max(_depths(stage)) + 1 > ARCS_ABOVE * len(stage.nodes):
        return _arcs(stage, sizes)
    return _layers(stage, sizes)


def _depths(stage: StageGraph) -> list[int]:
    """The number of edges on the longest path to each node."""
    depths = [0] * len(stage.nodes)
    for edge in stage.edges:
        depths[edge.target] = max(depths[edge.target], depths[edge.source] + 1)
    return depths


# ---- chain


def _chain(stage: StageGraph, sizes: Sequence[Size]) -> Layout:
    row_height = max(height for _, height in sizes)
    boxes: list[Box] = []
    rows: list[int] = []
    x, row = 0.0, 0
    for width, height in sizes:
        if x > 0 and x + width > ROW_WIDTH:
            x, row = CHAIN_GAP, row + 1
        y = row * (row_height + ROW_GAP) + (row_height - height) / 2
        boxes.append(Box(x, y, width, height))
        rows.append(row)
        x += width + CHAIN_GAP
    curves = tuple(
        _chain_edge(boxes[edge.source], boxes[edge.target], rows[edge.source] == rows[edge.target])
        for edge in stage.edges
    )
    right = max(box.x + box.width for box in boxes) + (CHAIN_GAP if row else 0)
    return Layout("chain", right, row * (row_height + ROW_GAP) + row_height, tuple(boxes), curves)


def _chain_edge(source: Box, target: Box, same_row: bool) -> tuple[Point, ...]:
    start = (source.x + source.width, source.middle)
    end = (target.x, target.middle)
    if same_row:
        return straight(start, end)
    turn = CHAIN_GAP * 0.6
    between = (source.middle + target.middle) / 2
    right, left = start[0] + turn, end[0] - turn
    return (
        start,
        *((right, start[1]), (right, between), (start[0], between)),
        *straight((start[0], between), (end[0], between))[1:],
        *((left, between), (left, end[1]), end),
    )


# ---- arcs


def _arcs(stage: StageGraph, sizes: Sequence[Size]) -> Layout:
    lefts: list[float] = []
    x = 0.0
    for width, _ in sizes:
        lefts.append(x)
        x += width + BOX_GAP
    row_height = max(height for _, height in sizes)
    starts, ends = _ports_on_top(stage, lefts, sizes)
    spans = [abs(ends[edge] - starts[edge]) for edge in stage.edges if not _adjacent(edge)]
    top = max((_arc_height(span) for span in spans), default=0.0)
    boxes = tuple(
        Box(left, top + (row_height - height) / 2, width, height)
        for left, (width, height) in zip(lefts, sizes, strict=True)
    )
    curves: list[tuple[Point, ...]] = []
    for edge in stage.edges:
        source, target = boxes[edge.source], boxes[edge.target]
        if _adjacent(edge):
            middle = top + row_height / 2
            curves.append(straight((source.x + source.width, middle), (target.x, middle)))
        else:
            start, end = starts[edge], ends[edge]
            # A cubic with upright ends rises to 3/4 of its control points.
            lift = _arc_height(end - start) * 4 / 3
            curves.append(
                (
                    (start, source.y),
                    *((start, source.y - lift), (end, target.y - lift), (end, target.y)),
                )
            )
    return Layout("arcs", x - BOX_GAP, top + row_height, boxes, tuple(curves))


def _adjacent(edge: Edge) -> bool:
    return edge.target == edge.source + 1


def _arc_height(span: float) -> float:
    return 0.5 * span / (1 + span / 650)


def _ports_on_top(
    stage: StageGraph, lefts: Sequence[float], sizes: Sequence[Size]
) -> tuple[dict[Edge, float], dict[Edge, float]]:
    """Where arcs leave and enter: long arcs nearest to the middle of a box, so that none cross."""
    starts: dict[Edge, float] = {}
    ends: dict[Edge, float] = {}
    for index in range(len(stage.nodes)):
        left, width = lefts[index], sizes[index][0]
        out = [e for e in stage.edges if e.source == index and not _adjacent(e)]
        for rank, edge in enumerate(sorted(out, key=lambda e: -e.target)):
            starts[edge] = left + width * (0.55 + 0.4 * (rank + 0.5) / len(out))
        into = [e for e in stage.edges if e.target == index and not _adjacent(e)]
        for rank, edge in enumerate(sorted(into, key=lambda e: -e.source)):
            ends[edge] = left + width * (0.05 + 0.4 * (rank + 0.5) / len(into))
    return starts, ends


# ---- layers

Slot = tuple[int, str, int]
"""A place in a layer: (node, "", layer) for a box, (source, kind of weight, layer) for a lane."""


def _layers(stage: StageGraph, sizes: Sequence[Size]) -> Layout:
    layer_of = _assign_layers(stage)
    layers, links = _slots(stage, layer_of)
    layers = _order(layers, links)
    sizes = [_with_ports(stage, node, size) for node, size in enumerate(sizes)]
    heights = {
        slot: sizes[slot[0]][1] if _is_box(slot) else LANE for layer in layers for slot in layer
    }
    middles = _spread(layers, links, heights)
    lefts, widths = _columns(layers, sizes, links)
    boxes = tuple(
        Box(
            lefts[layer_of[node]] + (widths[layer_of[node]] - width) / 2,
            middles[node, "", layer_of[node]] - height / 2,
            width,
            height,
        )
        for node, (width, height) in enumerate(sizes)
    )
    curves = _route(stage, layer_of, boxes, middles, lefts, widths)
    bottom = max(middles[slot] + height / 2 for slot, height in heights.items())
    return Layout("layers", lefts[-1] + widths[-1], bottom, boxes, curves)


def _with_ports(stage: StageGraph, node: int, size: Size) -> Size:
    """A box high enough for the edges that enter or leave it to be told apart."""
    into = sum(1 for edge in stage.edges if edge.target == node)
    out = len({edge.target for edge in stage.edges if edge.source == node})
    return size[0], max(size[1], PORT * min(into, 10) + 6, PORT * min(out, 6) + 6)


def _is_box(slot: Slot) -> bool:
    return slot[1] == ""


def _assign_layers(stage: StageGraph) -> list[int]:
    """Longest-path layers; a node with more outputs than inputs moves up to its first reader."""
    layer_of = _depths(stage)
    inputs = [len(stage.sources_of(node)) for node in range(len(stage.nodes))]
    for node in reversed(range(len(stage.nodes))):
        targets = [edge.target for edge in stage.edges if edge.source == node]
        if inputs[node] and len(targets) > inputs[node]:
            layer_of[node] = min(layer_of[target] for target in targets) - 1
    return layer_of


def _slots(
    stage: StageGraph, layer_of: Sequence[int]
) -> tuple[list[list[Slot]], dict[Slot, set[Slot]]]:
    """The slots of every layer, and which slots of the next layer each leads to."""
    layers: list[list[Slot]] = [[] for _ in range(max(layer_of) + 1)]
    for node, layer in enumerate(layer_of):
        layers[layer].append((node, "", layer))
    links: dict[Slot, set[Slot]] = {}
    for edge in stage.edges:
        path = _slots_of(edge, layer_of)
        for slot in path[1:-1]:
            if slot not in layers[slot[2]]:
                layers[slot[2]].append(slot)
        for slot, following in pairwise(path):
            links.setdefault(slot, set()).add(following)
    return layers, links


def _slots_of(edge: Edge, layer_of: Sequence[int]) -> list[Slot]:
    first, last = layer_of[edge.source], layer_of[edge.target]
    lanes = [(edge.source, edge.weights.kind, layer) for layer in range(first + 1, last)]
    return [(edge.source, "", first), *lanes, (edge.target, "", last)]


def _order(layers: list[list[Slot]], links: dict[Slot, set[Slot]]) -> list[list[Slot]]:
    """The order of least crossings that 12 sweeps of barycentres find."""
    back: dict[Slot, set[Slot]] = {}
    for slot, following in links.items():
        for target in following:
            back.setdefault(target, set()).add(slot)
    best, fewest = layers, _crossings(layers, links)
    current = [list(layer) for layer in layers]
    for sweep in range(12):
        forward = sweep % 2 == 0
        neighbours = back if forward else links
        indices = range(1, len(layers)) if forward else range(len(layers) - 2, -1, -1)
        for index in indices:
            reference = current[index - 1 if forward else index + 1]
            position = {slot: place for place, slot in enumerate(reference)}
            current[index] = _by_barycentre(current[index], neighbours, position)
        crossings = _crossings(current, links)
        if crossings < fewest:
            best, fewest = [list(layer) for layer in current], crossings
    return best


def _by_barycentre(
    layer: list[Slot], neighbours: dict[Slot, set[Slot]], position: dict[Slot, int]
) -> list[Slot]:
    def key(entry: tuple[int, Slot]) -> tuple[float, int]:
        place, slot = entry
        around = [position[other] for other in neighbours.get(slot, ())]
        return (sum(around) / len(around) if around else place, place)

    return [slot for _, slot in sorted(enumerate(layer), key=key)]


def _crossings(layers: list[list[Slot]], links: dict[Slot, set[Slot]]) -> int:
    total = 0
    for layer, following in pairwise(layers):
        position = {slot: place for place, slot in enumerate(following)}
        ends = [
            end
            for slot in layer
            for end in sorted(position[target] for target in links.get(slot, ()))
        ]
        total += sum(
            1 for place, end in enumerate(ends) for later in ends[place + 1 :] if later < end
        )
    return total


def _spread(
    layers: list[list[Slot]], links: dict[Slot, set[Slot]], heights: dict[Slot, float]
) -> dict[Slot, float]:
    """The middle of every slot: as straight as the order and the distances allow."""
    neighbours: dict[Slot, list[Slot]] = {slot: [] for layer in layers for slot in layer}
    for slot, following in links.items():
        for target in following:
            neighbours[slot].append(target)
            neighbours[target].append(slot)
    middles: dict[Slot, float] = {}
    for layer in layers:
        y = 0.0
        for slot in layer:
            middles[slot] = y + heights[slot] / 2
            y += heights[slot] + NODE_GAP
    for sweep in range(24):
        for layer in layers if sweep % 2 == 0 else reversed(layers):
            wishes = [
                sum(middles[other] for other in neighbours[slot]) / len(neighbours[slot])
                if neighbours[slot]
                else middles[slot]
                for slot in layer
            ]
            middles.update(zip(layer, _separate(layer, wishes, heights), strict=True))
    highest = min(middle - heights[slot] / 2 for slot, middle in middles.items())
    return {slot: middle - highest for slot, middle in middles.items()}


def _separate(layer: list[Slot], wishes: list[float], heights: dict[Slot, float]) -> list[float]:
    """The places nearest to `wishes` (least squares) that keep order and distance.

    Source: pool adjacent violators, on the wishes less the room that the slots before need.
    """
    offsets, offset = [], 0.0
    for place, slot in enumerate(layer):
        if place:
            before = layer[place - 1]
            lanes = not _is_box(slot) and not _is_box(before)
            gap = 0.0 if lanes else NODE_GAP
            offset += (heights[before] + heights[slot]) / 2 + gap
        offsets.append(offset)
    pools: list[tuple[float, int]] = []
    for wish, shift in zip(wishes, offsets, strict=True):
        total, count = wish - shift, 1
        while pools and pools[-1][0] / pools[-1][1] > total / count:
            total, count = total + pools[-1][0], count + pools[-1][1]
            pools.pop()
        pools.append((total, count))
    levels = [total / count for total, count in pools for _ in range(count)]
    return [level + shift for level, shift in zip(levels, offsets, strict=True)]


def _columns(
    layers: list[list[Slot]], sizes: Sequence[Size], links: dict[Slot, set[Slot]]
) -> tuple[list[float], list[float]]:
    """Left edge and width of every layer; more room where more edges pass to the next."""
    lefts: list[float] = []
    widths: list[float] = []
    x = 0.0
    for layer in layers:
        width = max((sizes[slot[0]][0] for slot in layer if _is_box(slot)), default=0.0)
        lefts.append(x)
        widths.append(width)
        passing = sum(len(links.get(slot, ())) for slot in layer)
        x += width + COLUMN_GAP + 1.2 * min(passing, 40)
    return lefts, widths


def _route(
    stage: StageGraph,
    layer_of: Sequence[int],
    boxes: Sequence[Box],
    middles: dict[Slot, float],
    lefts: Sequence[float],
    widths: Sequence[float],
) -> tuple[tuple[Point, ...], ...]:
    paths = {edge: _slots_of(edge, layer_of) for edge in stage.edges}
    leave = _side_ports(stage, boxes, middles, {edge: path[1] for edge, path in paths.items()}, 1)
    enter = _side_ports(stage, boxes, middles, {edge: path[-2] for edge, path in paths.items()}, 0)
    curves: list[tuple[Point, ...]] = []
    for edge, path in paths.items():
        source, target = boxes[edge.source], boxes[edge.target]
        first, last = path[0][2], path[-1][2]
        stops: list[Point] = [(source.x + source.width, leave[edge])]
        stops.append((lefts[first] + widths[first], leave[edge]))
        for lane in path[1:-1]:
            left = lefts[lane[2]]
            stops += [(left, middles[lane]), (left + widths[lane[2]], middles[lane])]
        stops += [(lefts[last], enter[edge]), (target.x, enter[edge])]
        curves.append(_smooth(stops))
    return tuple(curves)


def _side_ports(
    stage: StageGraph,
    boxes: Sequence[Box],
    middles: dict[Slot, float],
    next_slot: dict[Edge, Slot],
    side: int,
) -> dict[Edge, float]:
    """Where edges leave (side 1) or enter (side 0) their boxes, in the order they come in.

    Edges that share a lane share a port.
    """
    ports: dict[Edge, float] = {}
    for index, box in enumerate(boxes):
        edges = [e for e in stage.edges if (e.source if side else e.target) == index]
        slots = sorted({next_slot[edge] for edge in edges}, key=lambda slot: middles[slot])
        step = min(6.0, (box.height - 6) / len(slots)) if slots else 0.0
        place = {slot: rank - (len(slots) - 1) / 2 for rank, slot in enumerate(slots)}
        for edge in edges:
            ports[edge] = box.middle + step * place[next_slot[edge]]
    return ports


def _smooth(stops: list[Point]) -> tuple[Point, ...]:
    """A curve through the stops that is level at each of them."""
    points = [stops[0]]
    for (x, y), (u, v) in pairwise(stops):
        bend = (u - x) * 0.5
        points += [(x + bend, y), (u - bend, v), (u, v)]
    return tuple(points)
