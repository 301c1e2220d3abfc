"""What a wiring rule is. Rules live beside this file, one each; this file knows none of them."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from graphspec.registry import Registry

Edges = list[tuple[int, int]]

MAX_DRAWS = 1_000
"""Draws of a random graph before its parameters count as hopeless."""


class NotConnectedError(Exception):
    """No draw gave a connected graph: the parameters make one too unlikely."""


class BrokenRuleError(Exception):
    """A rule returned what it may not."""


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


def draw_connected(depth: int, draw: Callable[[], Edges | None]) -> Edges:
    """The edges of the first connected graph on nodes 0 .. depth - 1 that `draw` gives.

    `draw` returns None to give a draw up early.

    Raises:
        NotConnectedError: after `MAX_DRAWS` draws.
    """
    for _ in range(MAX_DRAWS):
        pairs = draw()
        if pairs is not None and is_connected(depth, pairs):
            return pairs
    raise NotConnectedError(f"none of {MAX_DRAWS:,} draws gave a connected graph of {depth} nodes")


def is_connected(depth: int, pairs: Edges) -> bool:
    """Whether every node of the undirected graph reaches every other."""
    neighbours: list[list[int]] = [[] for _ in range(depth)]
    for u, v in pairs:
        neighbours[u].append(v)
        neighbours[v].append(u)
    reached, frontier = {0}, [0]
    while frontier:
        new = [node for node in neighbours[frontier.pop()] if node not in reached]
        reached.update(new)
        frontier.extend(new)
    return len(reached) == depth


def orient(depth: int, pairs: Iterable[tuple[int, int]]) -> Edges:
    """The DAG of an undirected graph on nodes 0 .. depth - 1.

    Every edge points from the low to the high index; the input node feeds every node without
    predecessor, the output node gathers every node without successor.

    Source: Xie et al. 2019 (RandWire), sections 3.2 and 3.3.
    """
    edges = {(min(pair) + 1, max(pair) + 1) for pair in pairs}
    nodes = set(range(1, depth + 1))
    edges |= {(0, node) for node in nodes - {target for _, target in edges}}
    edges |= {(node, depth + 1) for node in nodes - {source for source, _ in edges}}
    return sorted(edges, key=lambda edge: edge[::-1])
