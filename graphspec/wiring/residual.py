from __future__ import annotations

import random
from typing import Literal

from graphspec.wiring._base import WIRINGS, Edges, Wiring


@WIRINGS.register
class Residual(Wiring):
    """Feeds every node into the next two: ResNet with its shortcuts as edges.

    Source: DG-Net section 3.1, the "natural view" of ResNet. torchvision's ResNet is `chain`
    with a block that has its own shortcut, a different network.
    """

    kind: Literal["residual"] = "residual"

    def max_edges(self, depth: int) -> int:
        return 2 * depth + 1

    def connect(self, depth: int, rng: random.Random) -> Edges:
        return [(i, j) for j in range(1, depth + 2) for i in range(max(0, j - 2), j)]
