"""A budget of multiply-adds as a term of the loss, so that thresholds close edges.

Source: DG-Net names it as future work; the term is ours.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, fx

from runtime.routes import MacShare, Recorder, StageMacs
from runtime.training.recipe import RecipeError

TEMPERATURE = 0.25
"""Of the soft decision. An edge starts at a - tau = 0.95: far below 0.25 no gradient is left."""


class MacBudget:
    """weight * (expected share of MACs - target)^2 where the share is above the target.

    An edge is open with probability sigmoid((a - tau) / temperature), a node lives with the
    probability that one of its input edges is open and comes from a node that lives. The
    expected share of a batch is the mean over its samples: some may use more than others.
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

    def loss(self) -> Tensor:
        """The term for the batch that has just gone forward."""
        over = torch.relu(self.expected_share().mean() - self.target)
        return self.weight * over.square()

    def expected_share(self) -> Tensor:
        """Shape: (B,)"""
        return self._share(self._share.openings(self._recorder.take(), TEMPERATURE))
