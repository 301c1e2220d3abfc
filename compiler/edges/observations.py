"""Figures to set beside figures 5-7 of the DG-Net paper: how weights lie, and how they vary."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from runtime.edge_statistics import Analysis, StageStatistics

STEADY = 0.01
"""An edge whose weight has a smaller standard deviation over images hardly varies."""

ROWS: Mapping[str, str] = {
    "mean": "mean weight",
    "mean_from_input": "  of edges from the input",
    "mean_to_output": "  of edges to the output",
    "mean_to_next": "  of edges to the next node",
    "mean_over_nodes": "  of edges over one node or more",
    "correlation_with_distance": "correlation of mean weight and distance",
    "correlation_with_depth": "correlation of mean weight and place of the target",
    "std": "standard deviation over images",
    "std_from_input": "  of edges from the input",
    "std_to_output": "  of edges to the output",
    "std_to_next": "  of edges to the next node",
    "std_over_nodes": "  of edges over one node or more",
    "steady": f"share of edges with a deviation below {STEADY}",
    "between_classes": "share of the variance between classes",
    "between_extremes": "mean difference, easiest and hardest image",
}
"""What each figure of a stage is; in this order from top to bottom."""


def observe(analysis: Analysis) -> dict[str, dict[str, float | None]]:
    """The figures of each stage, in the order of the stages; None where there is none."""
    extremes = {
        name: (analysis.easiest.weights[name] - analysis.hardest.weights[name]).abs()
        for name in analysis.stages
        if analysis.easiest is not None and analysis.hardest is not None
    }
    return {name: _figures(stage, extremes.get(name)) for name, stage in analysis.stages.items()}


def _figures(stage: StageStatistics, extremes: Tensor | None) -> dict[str, float | None]:
    target, source = stage.edges.nonzero().unbind(1)
    mean, std = stage.weights.mean[stage.edges], stage.weights.std[stage.edges]
    found: dict[str, float | None] = {
        "mean": float(mean.mean()),
        "correlation_with_distance": _correlation(mean, target - source),
        "correlation_with_depth": _correlation(mean, target),
    }
    masks = groups(stage)
    keys = {"from_input", "to_output", "to_next", "over_nodes"}
    found |= {
        f"mean_{key}": float(stage.weights.mean[masks[key]].mean()) for key in keys & masks.keys()
    }
    if stage.is_routed:
        shares = stage.class_share[stage.edges]
        varying = shares[~shares.isnan()]
        found |= {
            f"std_{key}": float(stage.weights.std[masks[key]].mean()) for key in keys & masks.keys()
        }
        found |= {
            "std": float(std.mean()),
            "steady": float((std < STEADY).double().mean()),
            "between_classes": float(varying.mean()) if len(varying) else None,
            "between_extremes": None if extremes is None else float(extremes[stage.edges].mean()),
        }
    return {key: found.get(key) for key in ROWS}


def groups(stage: StageStatistics) -> dict[str, Tensor]:
    """Edges by where they lead, as masks; groups without an edge are left out. Shape: (N, N)"""
    size = len(stage.nodes)
    target, source = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    is_input = ~stage.edges.any(1)
    masks = {
        "from_input": stage.edges & is_input[source],
        "to_output": stage.edges & (target == size - 1),
        "to_next": stage.edges & (target - source == 1),
        "over_nodes": stage.edges & (target - source > 1),
    }
    return {name: mask for name, mask in masks.items() if bool(mask.any())}


def _correlation(values: Tensor, places: Tensor) -> float | None:
    """Pearson's; None where one of the two is constant."""
    both = torch.stack([values.double(), places.double()])
    if both.shape[1] < 3 or bool((both.std(1) < 1e-6).any()):
        return None
    return float(torch.corrcoef(both)[0, 1])


def as_table(observations: Mapping[str, Mapping[str, float | None]]) -> list[list[str]]:
    """A head with the stages, and a row a figure that some stage has."""
    rows = [["", *observations]]
    for key, text in ROWS.items():
        values = [stage[key] for stage in observations.values()]
        if any(value is not None for value in values):
            rows.append([text, *("" if value is None else f"{value:.4f}" for value in values)])
    return rows
