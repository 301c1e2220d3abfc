"""From router scores to edge weights: soft in training, thresholded at inference.

Source: DG-Net eqs. 4-5 and 10, section 3.3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from runtime.adjacency import append_column, selector

Mode = Literal["soft", "masked"]
Rule = Literal["consistent", "literal"]


def soft_weight(score: Tensor, threshold: Tensor) -> Tensor:
    """psi(a) = a * sigmoid(a - tau): the training weight of an edge.

    Source: DG-Net eq. 5. Its derivative in tau is a * s * (s - 1), s = sigmoid(a - tau).
    Shape: (B, T), (T,) -> (B, T)
    """
    return score * torch.sigmoid(score - threshold)


def edge_function(parameter: Tensor, function: Literal["sigmoid", "free"]) -> Tensor:
    """Weights of learned edges from their parameters (RandWire section 3.2: sigmoid)."""
    return torch.sigmoid(parameter) if function == "sigmoid" else parameter


class Gate(nn.Module):
    """Writes one node's column of the adjacency matrix.

    In training every routed edge weighs psi(a). At inference (`mode` "masked") an edge with
    a < tau is closed, a node whose input edges are all closed is removed, and with it its
    output edges; an open edge weighs psi(a) (`rule` "consistent") or a ("literal").
    Edges of the stage that are not routed keep their fixed or learned weight.

    Shape: scores (B, R), adjacency (B, N, node) or None, threshold (receivers,) or None
        -> (B, N, node + 1)
    """

    def __init__(
        self,
        node: int,
        num_nodes: int,
        *,
        routed: Sequence[int],
        thresholds: Sequence[int] = (),
        learned: Sequence[int] = (),
        fixed: Sequence[tuple[int, float]] = (),
        function: Literal["sigmoid", "free"] = "sigmoid",
        init: Sequence[float] = (),
        removable: bool = False,
        rule: Rule = "consistent",
    ) -> None:
        super().__init__()
        self.node, self.num_nodes, self.removable = node, num_nodes, removable
        self.mode: Mode = "masked"
        self.rule: Rule = rule
        self.function: Literal["sigmoid", "free"] = function
        self.fixed = [value for _, value in fixed]
        self.thresholds = selector(thresholds) if thresholds else None
        targets = [*routed, *learned, *(target for target, _ in fixed)]
        self.order = sorted(range(len(targets)), key=targets.__getitem__)
        self.is_sorted = self.order == list(range(len(targets)))
        self.targets = sorted(targets)
        if learned:
            self.weight = nn.Parameter(torch.tensor(list(init)))
        else:
            self.register_parameter("weight", None)

    def forward(
        self, scores: Tensor, adjacency: Tensor | None = None, threshold: Tensor | None = None
    ) -> Tensor:
        weights = scores
        if threshold is not None and self.thresholds is not None:
            weights = self._gated(scores, threshold[self.thresholds])
        weights = self._with_constants(weights)
        if self.removable and adjacency is not None and not self.training and self.mode != "soft":
            weights = weights * (adjacency[:, self.node] != 0).any(dim=1, keepdim=True)
        return append_column(adjacency, weights, self.targets, self.num_nodes)

    def _gated(self, scores: Tensor, threshold: Tensor) -> Tensor:
        if self.training or self.mode == "soft":
            return soft_weight(scores, threshold)
        weights = soft_weight(scores, threshold) if self.rule == "consistent" else scores
        return weights * (scores >= threshold)

    def _with_constants(self, weights: Tensor) -> Tensor:
        batch = weights.shape[0]
        parts = [weights]
        if self.weight is not None:
            parts.append(edge_function(self.weight, self.function).expand(batch, -1))
        if self.fixed:
            parts.append(weights.new_tensor(self.fixed).expand(batch, -1))
        if len(parts) > 1:
            weights = torch.cat(parts, dim=1)
        return weights if self.is_sorted else weights[:, self.order]


class NoScores(nn.Module):
    """Stands where a node of a routed stage has no routed output edge.

    Shape: (B, C, H, W) -> (B, 0)
    """

    def forward(self, x: Tensor) -> Tensor:
        return x.new_empty(x.shape[0], 0)


def gates(model: nn.Module) -> Iterator[Gate]:
    """All gates of a compiled network."""
    return (module for module in model.modules() if isinstance(module, Gate))


def set_inference(model: nn.Module, *, mode: Mode = "masked", rule: Rule | None = None) -> None:
    """Chooses what a network does in eval mode; `rule` None keeps the spec's rule.

    "soft" leaves every edge open with its training weight; "masked" computes everything and
    weighs closed edges 0. "literal" needs batch-norm statistics that were estimated under it.
    """
    for gate in gates(model):
        gate.mode = mode
        gate.rule = rule or gate.rule


@contextmanager
def inference(
    model: nn.Module, *, mode: Mode = "masked", rule: Rule | None = None
) -> Iterator[None]:
    """`set_inference` for the length of a `with` block."""
    before = [(gate, gate.mode, gate.rule) for gate in gates(model)]
    set_inference(model, mode=mode, rule=rule)
    try:
        yield
    finally:
        for gate, old_mode, old_rule in before:
            gate.mode, gate.rule = old_mode, old_rule
