"""From router scores to edge weights: soft in training, thresholded at inference.

Source: DG-Net eqs. 4-5 and 10, section 3.3.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from runtime.adjacency import append_column, selector
from runtime.weighted_sum import tapped_column

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
    Edges of the stage that are not routed keep their fixed or learned weight. `pinned` holds
    what `pin_routes` asked for. `value` is what the node puts out, where it comes from a `Tap`.

    Shape: scores (B, R), adjacency (B, N, node) or None, threshold (receivers,) or None,
        value (B, C, H, W) or None -> (B, N, node + 1)
    """

    pinned: Tensor | None

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
        self.num_routed = len(routed)
        self.thresholds = selector(thresholds) if thresholds else None
        targets = [*routed, *learned, *(target for target, _ in fixed)]
        self.order = sorted(range(len(targets)), key=targets.__getitem__)
        self.is_sorted = self.order == list(range(len(targets)))
        self.targets = sorted(targets)
        if learned:
            self.weight = nn.Parameter(torch.tensor(list(init)))
        else:
            self.register_parameter("weight", None)
        self.register_buffer("pinned", None, persistent=False)

    def forward(
        self,
        scores: Tensor,
        adjacency: Tensor | None = None,
        threshold: Tensor | None = None,
        value: Tensor | None = None,
    ) -> Tensor:
        weights = scores
        if threshold is not None and self.thresholds is not None:
            weights = self._gated(scores, threshold[self.thresholds])
        weights = self._with_constants(weights)
        if self.pinned is not None:
            is_mask = self.pinned.dtype == torch.bool
            pinned = self.pinned.to(weights.dtype)
            weights = weights * pinned if is_mask else pinned.expand_as(weights)
        if self.removable and adjacency is not None and not self.training and self.mode != "soft":
            weights = weights * (adjacency[:, self.node] != 0).any(dim=1, keepdim=True)
        # A hook may change the column: the tap's gradient would be that of the changed weights.
        weights = tapped_column(weights, self.targets, None if self._forward_hooks else value)
        return append_column(adjacency, weights, self.targets, self.num_nodes)

    def _gated(self, scores: Tensor, threshold: Tensor) -> Tensor:
        if self.training or self.mode == "soft":
            return soft_weight(scores, threshold)
        weights = soft_weight(scores, threshold) if self.rule == "consistent" else scores
        return weights if self.pinned is not None else weights * (scores >= threshold)

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


def pin_routes(model: nn.Module, routes: Mapping[str, Tensor | None]) -> None:
    """Decides the routes of the named stages in the routers' place, in every mode.

    A boolean matrix says which edges are open, whatever their threshold; the open ones weigh
    what their router says. A matrix of numbers is the weights themselves. None gives the
    routes back to the routers. A node whose input edges are all closed is removed, as ever.

    Shape: M[b, target, source], (N, N) or (B, N, N)
    Raises:
        ValueError: for a stage without gates, or a matrix of another size.
    """
    for name, matrix in routes.items():
        stage = dict(model.named_children()).get(name)
        found = list(gates(stage)) if stage is not None else []
        if not found:
            known = [name for name, child in model.named_children() if any(gates(child))]
            raise ValueError(f"no stage {name!r} with routes (known: {', '.join(known) or 'none'})")
        size = found[0].num_nodes
        if matrix is not None and (matrix.dim() not in (2, 3) or matrix.shape[-2:] != (size, size)):
            raise ValueError(
                f"stage {name!r} has {size} nodes: its routes are a matrix ({size}, {size}) or "
                f"(B, {size}, {size}), not {tuple(matrix.shape)}"
            )
        for gate in found:
            pinned = None
            if matrix is not None:
                by_sample = matrix if matrix.dim() == 3 else matrix.unsqueeze(0)
                pinned = by_sample[:, gate.targets, gate.node].clone()
            gate.pinned = pinned


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
) -> Generator[None]:
    """`set_inference` for the length of a `with` block."""
    before: list[tuple[Gate, Mode, Rule]] = [(g, g.mode, g.rule) for g in gates(model)]
    set_inference(model, mode=mode, rule=rule)
    try:
        yield
    finally:
        for gate, old_mode, old_rule in before:
            gate.mode, gate.rule = old_mode, old_rule
