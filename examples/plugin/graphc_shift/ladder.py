"""The wiring `ladder`."""

from __future__ import annotations

import random
from typing import Literal

from pydantic import Field

from graphspec.wiring import Edges, Wiring


class Ladder(Wiring):
    """A chain with a rung over every `span` nodes."""

    kind: Literal["ladder"] = "ladder"
    span: int = Field(default=2, ge=2, description="nodes a rung reaches over")

    def connect(self, depth: int, rng: random.Random) -> Edges:
        return [
            (source, target)
            for target in range(1, depth + 2)
            for source in (target - self.span, target - 1)
            if source >= 0
        ]
