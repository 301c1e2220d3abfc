from __future__ import annotations

import random
from typing import Literal

from graphspec.wiring._base import WIRINGS, Edges, Wiring


@WIRINGS.register
class Complete(Wiring):
    """Feeds every node into every later one, the input node into the output node included.

    Source: DG-Net section 3.2. With `aggregate: concat` this is DenseNet's wiring.
    """

    kind: Literal["complete"] = "complete"

    def connect(self, depth: int, rng: random.Random) -> Edges:
        return [(i, j) for j in range(depth + 2) for i in range(j)]
