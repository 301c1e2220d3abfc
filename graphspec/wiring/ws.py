from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from graphspec.wiring._base import WIRINGS, Edges, Wiring, draw_connected, orient


@WIRINGS.register
class WattsStrogatz(Wiring):
    """Joins each block node of a ring to its `k` nearest, then rewires edges with probability `p`.

    The index of a node is its position on the ring. Redrawn until the graph is connected.

    Source: Watts and Strogatz 1998; RandWire section 3.3, best with k = 4, p = 0.75.
    """

    kind: Literal["ws"] = "ws"
    k: Annotated[int, Field(strict=True, ge=2, multiple_of=2)] = Field(
        description="neighbours of a node on the ring, half on each side; even, less than depth"
    )
    p: float = Field(ge=0, le=1, description="probability that an edge is rewired")

    is_random: ClassVar[bool] = True

    def problems(self, depth: int) -> Iterable[tuple[str, str, str]]:
        if self.k >= depth:
            yield (
                "k",
                f"k is {self.k}, which must be less than the depth, {depth}",
                "lower k, or raise depth: a node has only depth - 1 others to be joined to",
            )

    def max_edges(self, depth: int) -> int:
        return self.k * depth // 2 + 2 * depth

    def connect(self, depth: int, rng: random.Random) -> Edges:
        return orient(depth, draw_connected(depth, lambda: self._draw(depth, rng)))

    def _draw(self, depth: int, rng: random.Random) -> Edges:
        steps = range(1, self.k // 2 + 1)
        neighbours: list[set[int]] = [set() for _ in range(depth)]
        for step in steps:
            for u in range(depth):
                neighbours[u].add((u + step) % depth)
                neighbours[(u + step) % depth].add(u)
        for step in steps:  # clockwise, lap by lap, as the paper describes it
            for u in range(depth):
                if rng.random() >= self.p or len(neighbours[u]) >= depth - 1:
                    continue
                v, w = (u + step) % depth, u
                while w == u or w in neighbours[u]:
                    w = rng.randrange(depth)
                neighbours[u].remove(v)
                neighbours[v].remove(u)
                neighbours[u].add(w)
                neighbours[w].add(u)
        return [(u, v) for u in range(depth) for v in sorted(neighbours[u]) if u < v]
