from __future__ import annotations

import random
from typing import ClassVar, Literal

from pydantic import Field

from graphspec.wiring._base import WIRINGS, Edges, Wiring, draw_connected, orient


@WIRINGS.register
class ErdosRenyi(Wiring):
    """Joins each pair of block nodes with probability `p`, redrawn until the graph is connected.

    Source: Erdos and Renyi 1959; RandWire section 3.3. DG-Net's table 4 has p = 0.2.
    """

    kind: Literal["er"] = "er"
    p: float = Field(gt=0, le=1, description="probability that two block nodes are joined")

    is_random: ClassVar[bool] = True

    def connect(self, depth: int, rng: random.Random) -> Edges:
        return orient(depth, draw_connected(depth, lambda: self._draw(depth, rng)))

    def _draw(self, depth: int, rng: random.Random) -> Edges | None:
        """One draw, given up at the first isolated node: hopeless graphs must fail fast."""
        joined, pairs = {0} if depth == 1 else set[int](), Edges()
        for u in range(depth):
            row = [(u, v) for v in range(u + 1, depth) if rng.random() < self.p]
            pairs += row
            joined.update(v for pair in row for v in pair)
            if u not in joined:
                return None
        return pairs
