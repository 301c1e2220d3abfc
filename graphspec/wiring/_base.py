"""What a wiring rule is. Rules live beside this file, one each; this file knows none of them."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from graphspec.registry import Registry

Edges = list[tuple[int, int]]


class Wiring(BaseModel, ABC):
    """A rule that connects the nodes of one stage. Its fields are its YAML parameters."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    is_random: ClassVar[bool] = False
    """Whether `connect` draws from `rng`; the resolved spec replaces such rules by their edges."""

    def problems(self, depth: int) -> Iterable[tuple[str, str, str]]:
        """Yields (parameter, what is wrong, what to do) for parameters that do not fit `depth`."""
        return ()

    def max_edges(self, depth: int) -> int:
        """An upper bound on the number of edges, known before anything is built."""
        return (depth + 2) * (depth + 1) // 2

    @abstractmethod
    def connect(self, depth: int, rng: random.Random) -> Edges:
        """Returns the edges (source, target) of a DAG on nodes 0 .. depth + 1, sorted by target.

        Node 0 is the stage input, nodes 1 .. depth are blocks, node depth + 1 is the stage
        output. Every edge goes from a lower to a higher index; node 0 is the only source, the
        last node the only sink. Equal `rng` states give equal edges.
        """


WIRINGS: Registry[type[Wiring]] = Registry(
    "wiring", key=lambda cls: cls.model_fields["kind"].default
)
