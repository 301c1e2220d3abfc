from __future__ import annotations

import heapq
import random
from collections.abc import Iterable, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_serializer
from pydantic_core.core_schema import SerializerFunctionWrapHandler

from graphspec.names import Name
from graphspec.weights import AnyEdgeWeights
from graphspec.wiring._base import WIRINGS, Edges, Wiring


class ExplicitEdge(BaseModel):
    """An edge by the names of its ends; `[source, target]` is short for it."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    source: Name = Field(description="the node whose output flows along the edge")
    target: Name = Field(description="the node that receives it")
    edge_weights: AnyEdgeWeights | None = Field(
        default=None, description="default: what the stage or its input or output node says"
    )

    @model_serializer(mode="wrap")
    def _shortest(self, handler: SerializerFunctionWrapHandler) -> Any:
        return [self.source, self.target] if self.edge_weights is None else handler(self)


def _pair_alone(value: Any) -> Any:
    if isinstance(value, list | tuple) and len(value) == 2:
        return {"source": value[0], "target": value[1]}
    return value


@WIRINGS.register
class Explicit(Wiring):
    """Joins nodes by name, edge by edge.

    The input node is `input` (with several stage inputs: the names of those), the output node
    `output`; every other name makes a block node. Nodes are put into topological order; those
    that could swap places come in the order in which the edges first name them.
    """

    kind: Literal["explicit"] = "explicit"
    edges: tuple[Annotated[ExplicitEdge, BeforeValidator(_pair_alone)], ...] = Field(
        min_length=1, description="[source, target], or a mapping that also has edge_weights"
    )

    def max_edges(self, depth: int) -> int:
        return len(self.edges)

    def block_nodes(self, inputs: Sequence[str]) -> list[str]:
        """The names that are neither input nodes nor the output node, by first appearance."""
        named = dict.fromkeys(name for edge in self.edges for name in (edge.source, edge.target))
        return [name for name in named if name not in (*inputs, "output")]

    def order(self, inputs: Sequence[str]) -> list[str]:
        """All node names in topological order: input nodes first, the output node last.

        The edges must have no cycle.
        """
        names = [*inputs, *self.block_nodes(inputs), "output"]
        position = {name: index for index, name in enumerate(names)}
        waiting_for = dict.fromkeys(names, 0)
        targets: dict[str, list[str]] = {name: [] for name in names}
        for edge in self.edges:
            waiting_for[edge.target] += 1
            targets[edge.source].append(edge.target)
        ready = [position[name] for name in names if waiting_for[name] == 0]
        order = list[str]()
        while ready:
            order.append(names[heapq.heappop(ready)])
            for target in targets[order[-1]]:
                waiting_for[target] -= 1
                if waiting_for[target] == 0:
                    heapq.heappush(ready, position[target])
        return order

    def connect(self, depth: int, rng: random.Random) -> Edges:
        index = {name: i for i, name in enumerate(self.order(("input",)))}
        edges = [(index[edge.source], index[edge.target]) for edge in self.edges]
        return sorted(edges, key=lambda edge: edge[::-1])


def find_cycle(edges: Iterable[ExplicitEdge]) -> list[str] | None:
    """The names along one cycle, the first repeated at the end; None where there is none."""
    sorter = TopologicalSorter[str]()
    for edge in edges:
        sorter.add(edge.target, edge.source)
    try:
        sorter.prepare()
    except CycleError as error:
        return list(error.args[1])
    return None
