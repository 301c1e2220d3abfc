"""Which edges are open, which nodes live, and what share of the multiply-adds that leaves."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from runtime.gating import Gate, gates
from runtime.outputs import Wiring, stages, wiring


class NodeMacs(NamedTuple):
    """Multiply-adds of a node for one sample: its block and router, and what it gathers."""

    computing: int
    gathering: int


StageMacs = Mapping[str, NodeMacs]
"""By node name; a node that is not there costs nothing."""


class Scores(NamedTuple):
    """What a router said and what its edges are compared with.

    Shape: scores (B, R), thresholds (R,)
    """

    scores: Tensor
    thresholds: Tensor


class Recorder:
    """Keeps the scores of every gate's latest forward pass, with their gradients."""

    def __init__(self, model: nn.Module) -> None:
        self._found: dict[Gate, Scores] = {}
        self._handles = [gate.register_forward_pre_hook(self._record) for gate in gates(model)]

    def _record(self, gate: nn.Module, arguments: tuple[Any, ...]) -> None:
        assert isinstance(gate, Gate)
        scores: Tensor
        scores, _, threshold = (*arguments, None, None)[:3]  # pyright: ignore[reportAssignmentType]
        if gate.thresholds is not None and threshold is not None:
            self._found[gate] = Scores(scores, threshold[gate.thresholds])

    def take(self) -> dict[Gate, Scores]:
        """What was recorded since the last call; nothing for edges without a threshold."""
        found, self._found = self._found, {}
        return found

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()


@contextmanager
def recording(model: nn.Module) -> Generator[Recorder]:
    """A recorder for the length of a `with` block."""
    recorder = Recorder(model)
    try:
        yield recorder
    finally:
        recorder.close()


def routed_targets(gate: Gate) -> list[int]:
    """The node that each score of a gate is for, in the order of the scores."""
    target_of = {place: gate.targets[rank] for rank, place in enumerate(gate.order)}
    return [target_of[place] for place in range(gate.num_routed)]


def matrix(stage: nn.Module, by_gate: Mapping[Gate, Tensor], like: Tensor, rest: float) -> Tensor:
    """One value for each routed edge as `M[b, target, source]`; `rest` everywhere else.

    Shape: by_gate (B, R) each -> (B, N, N), in the dtype of `like`
    """
    found = list(gates(stage))
    size = found[0].num_nodes
    values = torch.full((like.shape[0], size, size), rest, dtype=like.dtype, device=like.device)
    for gate in found:
        if gate in by_gate:
            values[:, routed_targets(gate), gate.node] = by_gate[gate].to(like.dtype)
    return values


def living(opening: Tensor, rows: Wiring) -> Tensor:
    """Whether each node lives: an input node, or one with an open edge from a node that lives.

    Of probabilities, taken as independent, this gives a probability:
    alive_j = 1 - product over i of (1 - open_ij * alive_i). The output node lives always.
    Shape: (B, N, N) in [0, 1] -> (B, N)
    """
    sources_of = {target: list(sources) for target, sources, _ in rows.rows}
    one = opening.new_ones(opening.shape[0])
    alive: list[Tensor] = []
    for node in range(len(rows.nodes)):
        sources = sources_of.get(node)
        if sources is None or node == len(rows.nodes) - 1:
            alive.append(one)
            continue
        reached = opening[:, node, sources] * torch.stack([alive[s] for s in sources], dim=1)
        alive.append(1 - (1 - reached).prod(dim=1))
    return torch.stack(alive, dim=1)


class MacShare:
    """The share of a network's multiply-adds that open edges and living nodes need.

    Everything outside of stages with routed edges is always computed.
    """

    def __init__(self, model: fx.GraphModule, macs: Mapping[str, StageMacs], total: int) -> None:
        self.total = total
        self._stages = {name: stage for name, stage in stages(model) if any(gates(stage))}
        self._wirings = {name: wiring(stage) for name, stage in self._stages.items()}
        self._computing: dict[str, Tensor] = {}
        self._gathering: dict[str, Tensor] = {}
        for name, rows in self._wirings.items():
            nodes = [macs[name].get(node, NodeMacs(0, 0)) for node in rows.nodes]
            self._computing[name] = torch.tensor([float(node.computing) for node in nodes])
            an_edge = torch.zeros(len(nodes), len(nodes))
            for target, sources, _ in rows.rows:
                an_edge[target, list(sources)] = nodes[target].gathering / len(sources)
            self._gathering[name] = an_edge
        routed = sum(
            float(part.sum())
            for parts in (self._computing, self._gathering)
            for part in parts.values()
        )
        self._elsewhere = total - routed

    def __call__(self, openings: Mapping[str, Tensor]) -> Tensor:
        """The share for each sample; of probabilities, the expected share.

        Shape: stage -> (B, N, N) in [0, 1]; the result (B,)
        """
        share = torch.zeros((), dtype=torch.float32)
        for name, opening in openings.items():
            alive = living(opening, self._wirings[name])
            used = opening * alive.unsqueeze(1) * self._gathering[name].to(opening)
            macs = (alive * self._computing[name].to(opening)).sum(1) + used.sum((1, 2))
            share = share.to(macs) + macs / self.total
        return share + self._elsewhere / self.total

    def openings(
        self, found: Mapping[Gate, Scores], temperature: float | None
    ) -> dict[str, Tensor]:
        """From scores: 1 where a >= tau, or sigmoid((a - tau) / temperature) everywhere.

        Edges without a threshold are open. Shape: stage -> (B, N, N)
        """
        result: dict[str, Tensor] = {}
        for name, stage in self._stages.items():
            by_gate = {gate: found[gate] for gate in gates(stage) if gate in found}
            if by_gate:
                like = next(iter(by_gate.values())).scores.float()
                is_open = {gate: _open(s, temperature) for gate, s in by_gate.items()}
                result[name] = matrix(stage, is_open, like, 1.0)
        return result


def _open(found: Scores, temperature: float | None) -> Tensor:
    above = found.scores.float() - found.thresholds.float()
    if temperature is None:
        return (above >= 0).float()
    return torch.sigmoid(above / temperature)
