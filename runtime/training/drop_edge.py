"""RandWire's regulariser: now and then one edge is missing for a mini-batch."""

from __future__ import annotations

import random
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from torch import nn

from runtime.aggregate import LearnedSum, RoutedSum, Sum
from runtime.training.recipe import RecipeError


class DropEdge:
    """Drops, with `probability` a step, one edge into a node that sums several.

    All such edges are equally likely. The edge counts as 0 in the sum, and a mean keeps its
    divisor.

    Source: Xie et al. 2019 (RandWire), section 4 (p = 0.1). Not compared with its code.
    """

    def __init__(self, model: nn.Module, probability: float) -> None:
        self.probability = probability
        self.edges = [
            (module, index)
            for module in model.modules()
            if (count := _num_sources(module)) > 1
            for index in range(count)
        ]
        if probability and not self.edges:
            raise RecipeError("drop_edge", "has no effect: no node sums more than one edge")

    @contextmanager
    def step(self, seed: int) -> Generator[None]:
        """One training step; equal seeds drop the same edge in every process."""
        rng = random.Random(seed)
        if rng.random() >= self.probability:
            yield
            return
        module, dropped = rng.choice(self.edges)

        def without(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
            values, *rest = arguments
            # A product keeps the graph: DDP waits for every parameter's gradient.
            kept = [0 * value if index == dropped else value for index, value in enumerate(values)]
            return (kept, *rest)

        handle = module.register_forward_pre_hook(without)
        try:
            yield
        finally:
            handle.remove()


def _num_sources(module: nn.Module) -> int:
    if isinstance(module, Sum):
        return len(module.weights)
    if isinstance(module, LearnedSum):
        return len(module.fixed)
    return len(module.sources) if isinstance(module, RoutedSum) else 0
