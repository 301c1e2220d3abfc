from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from graphspec.wiring._base import WIRINGS, Edges, Wiring, orient


@WIRINGS.register
class BarabasiAlbert(Wiring):
    """Adds block nodes one by one, each joined to `m` earlier ones in proportion to their degree.

    It starts from m isolated nodes, so the DAG has m sources and m (depth - m) edges between
    block nodes. networkx's generator starts from a star since 2.6: a different network.

    Source: Barabasi and Albert 1999; RandWire section 3.3. DG-Net's table 4 has m = 5.
    """

    kind: Literal["ba"] = "ba"
    m: Annotated[int, Field(strict=True, ge=1)] = Field(
        description="edges from each new node to earlier ones; less than depth"
    )

    is_random: ClassVar[bool] = True

    def problems(self, depth: int) -> Iterable[tuple[str, str, str]]:
        if self.m >= depth:
            yield (
                "m",
                f"m is {self.m}, which must be less than the depth, {depth}",
                "lower m, or raise depth: the stage starts from m unconnected nodes",
            )

    def max_edges(self, depth: int) -> int:
        return self.m * (depth - self.m) + 2 * depth

    def connect(self, depth: int, rng: random.Random) -> Edges:
        pairs, chances = Edges(), list[int]()  # a node stands in `chances` once per edge
        targets = list(range(self.m))
        for node in range(self.m, depth):
            pairs += [(target, node) for target in targets]
            chances += [*targets, *[node] * self.m]
            chosen = set[int]()
            while len(chosen) < self.m:
                chosen.add(rng.choice(chances))
            targets = sorted(chosen)
        return orient(depth, pairs)
