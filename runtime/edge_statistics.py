"""What a network's edges do over a data set, in one pass and in memory of a few matrices."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx, nn

from runtime.gating import gates
from runtime.outputs import stages, wiring, with_outputs
from runtime.routes import MacShare, living, matrix, recording

THRESHOLDS = tuple(step / 20 for step in range(21))
"""Values of tau for which closed edges and removed nodes are counted."""


class Moments:
    """Mean and standard deviation of a stream of equally shaped values.

    Source: Chan, Golub and LeVeque 1979: Welford's update, a batch at a time.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        self.count = 0
        self.mean = torch.zeros(tuple(shape), dtype=torch.float64)
        self._squares = torch.zeros(tuple(shape), dtype=torch.float64)

    def add(self, values: Tensor) -> None:
        """Shape: (B, *shape)"""
        if not len(values):
            return
        values = values.double().cpu()
        mean = values.mean(0)
        squares = (values - mean).square().sum(0)
        total = self.count + len(values)
        delta = mean - self.mean
        self._squares += squares + delta.square() * self.count * len(values) / total
        self.mean += delta * len(values) / total
        self.count = total

    @property
    def std(self) -> Tensor:
        """Of the whole population: divided by the count."""
        return (self._squares / max(1, self.count)).clamp_min(0).sqrt()


@dataclass
class Sample:
    """One image: what it is, what the network said, and its edges."""

    index: int
    label: int
    prediction: int
    loss: float
    weights: dict[str, Tensor]
    """stage -> (N, N)"""


class StageStatistics:
    """The edges of one stage: M[target, source], N nodes, K classes, T thresholds."""

    def __init__(self, stage: fx.GraphModule, num_classes: int) -> None:
        self.rows = wiring(stage)
        self.nodes = self.rows.nodes
        self.is_routed = any(gates(stage))
        size = len(self.nodes)
        self.edges = torch.zeros(size, size, dtype=torch.bool)
        for target, sources, _ in self.rows.rows:
            self.edges[target, list(sources)] = True
        self.weights = Moments((size, size))
        self.scores = Moments((size, size))
        self.by_class = [Moments((size, size)) for _ in range(num_classes)]
        self.closed = Moments((size, size))
        self.removed = Moments((size,))
        self.closed_by_class = [Moments(()) for _ in range(num_classes)]
        self.removed_by_class = [Moments(()) for _ in range(num_classes)]
        self.closed_at = [Moments(()) for _ in THRESHOLDS]
        self.removed_at = [Moments(()) for _ in THRESHOLDS]
        self.can_close = torch.zeros(size, size, dtype=torch.bool)
        """Edges with a threshold."""
        self._removable = [
            target for target, _, _ in self.rows.rows if target != len(self.nodes) - 1
        ]

    def add_weights(self, weights: Tensor, labels: Tensor) -> None:
        """Shape: weights (B, N, N), labels (B,)"""
        self.weights.add(weights)
        for label in labels.unique().tolist():
            self.by_class[label].add(weights[labels == label])

    def add_scores(self, scores: Tensor, opening: Tensor, labels: Tensor) -> None:
        """Scores (NaN where an edge has no threshold) and which edges are open under tau.

        Shape: (B, N, N), (B, N, N), (B,)
        """
        self.can_close = ~scores[0].isnan()
        self.scores.add(scores.nan_to_num(0.0))
        is_alive = living(opening, self.rows)
        is_closed = 1 - opening * is_alive.unsqueeze(1)
        self.closed.add(is_closed * self.can_close)
        self.removed.add(1 - is_alive)
        closed, removed = self._shares(is_closed, is_alive)
        for label in labels.unique().tolist():
            self.closed_by_class[label].add(closed[labels == label])
            self.removed_by_class[label].add(removed[labels == label])
        for place, threshold in enumerate(THRESHOLDS):
            at = torch.where(self.can_close, (scores >= threshold).float(), 1.0)
            alive_at = living(at, self.rows)
            closed, removed = self._shares(1 - at * alive_at.unsqueeze(1), alive_at)
            self.closed_at[place].add(closed)
            self.removed_at[place].add(removed)

    def _shares(self, is_closed: Tensor, is_alive: Tensor) -> tuple[Tensor, Tensor]:
        """The share of closed edges and of removed nodes for each sample. Shape: (B,), (B,)"""
        num_edges = max(1, int(self.can_close.sum()))
        closed = (is_closed * self.can_close).sum((1, 2)) / num_edges
        removed = (1 - is_alive)[:, self._removable].sum(1) / max(1, len(self._removable))
        return closed, removed

    @property
    def class_share(self) -> Tensor:
        """The part of each edge's variance that lies between classes; NaN where it is constant.

        Shape: (N, N)
        """
        between = torch.zeros_like(self.weights.mean)
        for moments in self.by_class:
            share = moments.count / max(1, self.weights.count)
            between += share * (moments.mean - self.weights.mean).square()
        variance = self.weights.std.square()
        constant = variance < 1e-12
        return torch.where(constant, torch.nan, between / variance.clamp_min(1e-12))


@dataclass
class Analysis:
    """Everything that one pass over a data set gives."""

    num_classes: int
    stages: dict[str, StageStatistics]
    mac_share: Moments = field(default_factory=lambda: Moments(()))
    mac_share_by_class: list[Moments] = field(default_factory=list[Moments])
    correct: Moments = field(default_factory=lambda: Moments(()))
    easiest: Sample | None = None
    hardest: Sample | None = None
    chosen: list[Sample] = field(default_factory=list[Sample])


@torch.no_grad()
def analyze_edges(
    model: fx.GraphModule,
    batches: Iterable[tuple[Tensor, Tensor]],
    num_classes: int,
    macs: MacShare,
    chosen: Sequence[int] = (),
) -> Analysis:
    """Edges of `model` under its present inference rule, over labelled batches.

    The easiest sample has the lowest cross-entropy, the hardest the highest.
    """
    result = Analysis(
        num_classes,
        {name: StageStatistics(stage, num_classes) for name, stage in stages(model)},
        mac_share_by_class=[Moments(()) for _ in range(num_classes)],
    )
    both, start = with_outputs(model.eval()), 0
    with recording(model) as recorder:
        for images, labels in batches:
            logits, adjacency, _ = both(images)
            labels = labels.cpu()
            found = recorder.take()
            openings = macs.openings(found, None)
            for name, stage in stages(model):
                statistics = result.stages[name]
                weights = adjacency[name].expand(len(images), -1, -1).cpu()
                statistics.add_weights(weights, labels)
                if name in openings:
                    scores = {gate: found[gate].scores for gate in gates(stage) if gate in found}
                    like = next(iter(scores.values())).float()
                    by_edge = matrix(stage, scores, like, float("nan"))
                    statistics.add_scores(by_edge.cpu(), openings[name].cpu(), labels)
            _add_macs(result, macs(openings).expand(len(images)).cpu(), labels)
            _add_samples(result, logits.cpu(), adjacency, labels, start, chosen)
            start += len(images)
    return result


def _add_macs(result: Analysis, shares: Tensor, labels: Tensor) -> None:
    result.mac_share.add(shares)
    for label in labels.unique().tolist():
        result.mac_share_by_class[label].add(shares[labels == label])


def _add_samples(
    result: Analysis,
    logits: Tensor,
    adjacency: dict[str, Tensor],
    labels: Tensor,
    start: int,
    chosen: Sequence[int],
) -> None:
    losses = nn.functional.cross_entropy(logits.float(), labels, reduction="none")
    predictions = logits.argmax(1)
    result.correct.add((predictions == labels).double())

    def sample(place: int) -> Sample:
        return Sample(
            index=start + place,
            label=int(labels[place]),
            prediction=int(predictions[place]),
            loss=float(losses[place]),
            weights={
                name: weights[place if len(weights) > 1 else 0].cpu().clone()
                for name, weights in adjacency.items()
            },
        )

    lowest, highest = int(losses.argmin()), int(losses.argmax())
    if result.easiest is None or float(losses[lowest]) < result.easiest.loss:
        result.easiest = sample(lowest)
    if result.hardest is None or float(losses[highest]) > result.hardest.loss:
        result.hardest = sample(highest)
    places = [index - start for index in chosen if start <= index < start + len(labels)]
    result.chosen.extend(sample(place) for place in places)
