from __future__ import annotations

import random
from typing import Literal

from graphspec.wiring._base import WIRINGS, Edges, Wiring


@WIRINGS.register
class Chain(Wiring):
    """Feeds every node into the next (VGG; ResNet when the block has its own shortcut)."""

    kind: Literal["chain"] = "chain"

    def max_edges(self, depth: int) -> int:
        return depth + 1

    def connect(self, depth: int, rng: random.Random) -> Edges:
        return [(j - 1, j) for j in range(1, depth + 2)]
