"""The wired network: what a spec means. Passes read and rebuild these values; nothing mutates them.

`path` fields say where in the spec a thing was defined, for errors; they do not count in
comparisons.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from graphspec.weights import EdgeWeights, Fixed

if TYPE_CHECKING:
    import networkx as nx

SpecPath = tuple[str | int, ...]
Shape = tuple[int, int, int]
"""Channels, height, width."""


@dataclass(frozen=True)
class BlockCall:
    """A block, stem or head by kind, with its parameters sorted by key."""

    kind: str
    params: tuple[tuple[str, Any], ...] = ()
    path: SpecPath = field(default=(), compare=False)


@dataclass(frozen=True)
class RouterCall:
    """A router by kind; it predicts the weights of the edges to `targets` (node indices)."""

    kind: str
    targets: tuple[int, ...]


@dataclass(frozen=True)
class Node:
    """One vertex of a stage.

    `block` None: the node hands on what it gathers. `width` None: as wide as what it
    gathers. Shapes are None until `infer-shapes` has run.
    """

    name: str
    role: Literal["input", "block", "output"]
    block: BlockCall | None = None
    aggregate: Literal["sum", "mean", "concat"] = "sum"
    width: int | None = None
    stride: int = 1
    router: RouterCall | None = None
    in_shape: Shape | None = None
    out_shape: Shape | None = None
    path: SpecPath = field(default=(), compare=False)


@dataclass(frozen=True)
class Edge:
    """Features flow from node `source` to node `target` (indices); always source < target."""

    source: int
    target: int
    weights: EdgeWeights = Fixed()
    path: SpecPath = field(default=(), compare=False)


@dataclass(frozen=True)
class StageGraph:
    """Nodes in topological order: input nodes first, the one output node last.

    `inputs` names what each input node receives: an earlier stage, or "stem"; one an
    input node, in order. Edges are sorted by (target, source).
    """

    name: str
    inputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    path: SpecPath = field(default=(), compare=False)

    def sources_of(self, target: int) -> tuple[Edge, ...]:
        """The input edges of a node, by ascending source."""
        return self._by_target.get(target, ())

    def targets_of(self, source: int) -> tuple[Edge, ...]:
        """The output edges of a node, by ascending target."""
        return self._by_source.get(source, ())

    # One pass over the edges serves all nodes: a stage may have thousands of both.
    @cached_property
    def _by_target(self) -> dict[int, tuple[Edge, ...]]:
        return _group(self.edges, lambda edge: edge.target)

    @cached_property
    def _by_source(self) -> dict[int, tuple[Edge, ...]]:
        return _group(self.edges, lambda edge: edge.source)

    def digraph(self) -> nx.DiGraph:
        """A networkx copy for algorithms; changing it changes nothing here."""
        import networkx as nx  # costs more than all of `graphc check`

        dag = nx.DiGraph()
        dag.add_nodes_from(range(len(self.nodes)))
        dag.add_edges_from((edge.source, edge.target) for edge in self.edges)
        return dag


def _group(edges: tuple[Edge, ...], key: Callable[[Edge], int]) -> dict[int, tuple[Edge, ...]]:
    groups: dict[int, list[Edge]] = {}
    for edge in edges:
        groups.setdefault(key(edge), []).append(edge)
    return {node: tuple(group) for node, group in groups.items()}


@dataclass(frozen=True)
class NetworkGraph:
    """A stem, stages in order, a head on the last stage. Printed by `graphspec.printer`."""

    name: str
    input_shape: Shape
    stem: BlockCall
    stem_width: int | None
    stem_stride: int
    stages: tuple[StageGraph, ...]
    head: BlockCall
    num_classes: int
    stem_shape: Shape | None = None
