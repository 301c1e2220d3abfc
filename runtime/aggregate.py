"""What a node gathers: the (weighted) sum, mean or concatenation of its sources' outputs.

Source: DG-Net eqs. 1 and 3; RandWire section 3.2; DenseNet section 3 for `Concat`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from runtime.adjacency import read_row
from runtime.gating import edge_function
from runtime.weighted_sum import factors, weighted_sum


class Concat(nn.Module):
    """Channels of all sources one after another, by ascending source.

    Shape: S values (B, C_i, H, W) -> (B, sum C_i, H, W)
    """

    def forward(self, values: list[Tensor]) -> Tensor:
        return torch.cat(values, dim=1)


class RoutedConcat(nn.Module):
    """`Concat` in a stage with routed edges: the output of a removed node counts as 0.

    `channels` are those of each source.
    Shape: S values (B, C_i, H, W), adjacency (B, N, j) -> (B, sum C_i, H, W)
    """

    def __init__(self, node: int, sources: Sequence[int], channels: Sequence[int]) -> None:
        super().__init__()
        self.node, self.sources, self.channels = node, tuple(sources), tuple(channels)

    def forward(self, values: list[Tensor], adjacency: Tensor) -> Tensor:
        if not self.training:
            row = factors(read_row(adjacency, self.node, self.sources), values[0])
            values = [value * (weight != 0) for value, weight in zip(values, row, strict=True)]
        return torch.cat(values, dim=1)


class Sum(nn.Module):
    """Sum (or mean) over edges of fixed weight.

    Shape: S values (B, C, H, W) -> (B, C, H, W)
    """

    def __init__(self, weights: Sequence[float], *, mean: bool = False) -> None:
        super().__init__()
        self.weights = tuple(weights)
        self.divisor = len(self.weights) if mean else 1

    def forward(self, values: list[Tensor]) -> Tensor:
        scaled = [
            value if weight == 1 else value * weight
            for value, weight in zip(values, self.weights, strict=True)
        ]
        total = scaled[0]
        for index, value in enumerate(scaled[1:]):
            # The first sum makes a tensor of our own; adding saves nothing for backward, so
            # the others may go into it.
            total = total.add_(value) if index else total + value
        return total if self.divisor == 1 else total / self.divisor

    def row(self) -> Tensor:
        """The weights of the input edges. Shape: (S,)"""
        return torch.tensor(self.weights, dtype=torch.float64) / self.divisor


class LearnedSum(nn.Module):
    """Sum (or mean) over edges of which some have a learned weight, equal for all samples.

    `fixed` holds a weight for every source, None where it is learned.
    Source: RandWire section 3.2; "alpha" of DG-Net's table 6.
    Shape: S values (B, C, H, W) -> (B, C, H, W)
    """

    def __init__(
        self,
        fixed: Sequence[float | None],
        *,
        function: Literal["sigmoid", "free"],
        init: Sequence[float],
        mean: bool = False,
    ) -> None:
        super().__init__()
        self.fixed = tuple(fixed)
        self.function: Literal["sigmoid", "free"] = function
        self.divisor = len(self.fixed) if mean else 1
        self.weight = nn.Parameter(torch.tensor(list(init)))

    def row(self) -> Tensor:
        """The weights of the input edges. Shape: (S,)"""
        learned = edge_function(self.weight, self.function)
        if None in self.fixed and any(value is not None for value in self.fixed):
            parts = iter(learned)
            learned = torch.stack(
                [
                    next(parts) if value is None else learned.new_tensor(value)
                    for value in self.fixed
                ]
            )
        return learned if self.divisor == 1 else learned / self.divisor

    def forward(self, values: list[Tensor]) -> Tensor:
        return weighted_sum(values, self.row().unsqueeze(0))


class RoutedSum(nn.Module):
    """Sum (or mean) weighted by a row of the stage's adjacency matrix (DG-Net eq. 3).

    Shape: S values (B, C, H, W), adjacency (B, N, j) -> (B, C, H, W)
    """

    def __init__(self, node: int, sources: Sequence[int], *, mean: bool = False) -> None:
        super().__init__()
        self.node, self.sources = node, tuple(sources)
        self.divisor = len(self.sources) if mean else 1

    def forward(self, values: list[Tensor], adjacency: Tensor) -> Tensor:
        row = read_row(adjacency, self.node, self.sources)
        if self.divisor == 1:
            return weighted_sum(values, row, self.node)
        return weighted_sum(values, row / self.divisor)
