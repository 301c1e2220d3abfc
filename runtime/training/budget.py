"""A budget of multiply-adds as a term of the loss, so that thresholds close edges.

Source: DG-Net names it as future work. The square around a target rate: Veit and Belongie 2018
(ConvNet-AIG), there layer by layer. Straight-through estimator: Bengio et al. 2013.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from runtime.gating import Gate, gates
from runtime.routes import MacShare, Recorder, StageMacs, routed_targets
from runtime.training.recipe import RecipeError

TEMPERATURE = 0.25
"""Of the soft decision. An edge starts at a - tau = 0.95: far below 0.25 no gradient is left."""


class MacBudget:
    """weight * (share of MACs - target)^2, below the target as above it.

    Nodes are large steps, and one that is removed for every sample has no gradient from the
    cross-entropy. With a term that ends at the target, thresholds went past it and stayed, with
    the same routes for all samples; this one takes them back to where samples differ.

    An edge is open with probability p = sigmoid((a - tau) / temperature), a node lives with the
    probability that one of its input edges is open and comes from a node that lives: that gives
    the expected share and the gradient. The value is the share that masked inference needs, the
    mean over the batch: some samples may use more than others.

    While it trains, the network computes as at inference: closed edges weigh 0, and p passes
    their gradient. Trained softly, edges that close at inference are missed: on digits,
    accuracy under the thresholds was that of chance.
    """

    def __init__(
        self,
        model: fx.GraphModule,
        macs: Mapping[str, StageMacs],
        total: int,
        *,
        target: float,
        weight: float,
    ) -> None:
        if not any(name.endswith(".threshold") for name, _ in model.named_parameters()):
            raise RecipeError("mac_budget", "has no effect: no edge of the network has a threshold")
        self.target, self.weight = target, weight
        self._share = MacShare(model, macs, total)
        self._recorder = Recorder(model)
        for gate in gates(model):
            gate.register_forward_hook(_close)

    def loss(self) -> Tensor:
        """The term for the batch that has just gone forward."""
        found = self._recorder.take()
        expected = self._share(self._share.openings(found, TEMPERATURE)).mean()
        needed = self._share(self._share.openings(found, None)).mean()
        return self.weight * (_straight_through(needed, expected) - self.target).square()


def _close(gate: nn.Module, arguments: tuple[Any, ...], adjacency: Tensor) -> Tensor | None:
    """In training: the matrix with the gate's new column as masked inference writes it.

    Shape: (B, N, node + 1) -> (B, N, node + 1)
    """
    assert isinstance(gate, Gate)
    scores, before, threshold = (*arguments, None, None)[:3]
    if not gate.training or threshold is None:
        return None
    column = adjacency[:, :, -1]
    if gate.thresholds is not None:
        above = scores - threshold[gate.thresholds]
        opening = torch.ones_like(column)
        p = torch.sigmoid(above / TEMPERATURE)
        opening[:, routed_targets(gate)] = _straight_through((above >= 0).to(p), p)
        column = column * opening
    if gate.removable and before is not None:
        column = column * (before[:, gate.node] != 0).any(dim=1, keepdim=True)
    return torch.cat((adjacency[:, :, :-1], column.unsqueeze(2)), dim=2)


def _straight_through(value: Tensor, gradient_of: Tensor) -> Tensor:
    """`value`, with the gradient of something else."""
    return value.detach() + gradient_of - gradient_of.detach()
