"""Wider and narrower networks of the same graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, TypeVar

from pydantic import BaseModel

from compiler.complexity import count
from graphspec import NetworkSpec, SpecError, StageSpec

M = TypeVar("M", bound=BaseModel)

MAX_TRIALS = 64


def with_first_width(spec: NetworkSpec, width: int) -> NetworkSpec:
    """The spec with its first stage `width` wide, and all other widths in proportion, rounded."""
    scale = Fraction(width, spec.stages[0].width)
    stages = tuple(_scaled_stage(stage, scale) for stage in spec.stages)
    return spec.model_copy(update={"stem": _scaled(spec.stem, scale), "stages": stages})


def _scaled_stage(stage: StageSpec, scale: Fraction) -> StageSpec:
    return stage.model_copy(
        update={
            "width": _round(stage.width * scale),
            "input_node": _scaled(stage.input_node, scale),
            "output_node": _scaled(stage.output_node, scale),
            "nodes": {name: _scaled(node, scale) for name, node in stage.nodes.items()},
        }
    )


def _scaled(model: M, scale: Fraction) -> M:
    width: Any = getattr(model, "width", None)
    return model if width is None else model.model_copy(update={"width": _round(width * scale)})


def _round(width: Fraction) -> int:
    return max(1, math.floor(width + Fraction(1, 2)))


def closest_width(
    specs: Sequence[NetworkSpec], conv_macs: int, on_trial: Callable[[int, float], None]
) -> int:
    """The width of the first stage for which the mean of `conv_macs` comes closest.

    Costs grow with the square of the width, nearly: from that guess, single steps lead across
    the wanted figure. Widths that blocks refuse (groups) are passed over. `on_trial` hears of
    every width tried and its mean.

    Raises:
        SpecError: no width near the guess fits the blocks.
    """
    search = _Search(specs, conv_macs, on_trial)
    start = specs[0].stages[0].width
    base = search.mean(start) or 1.0
    guess = max(1, round(start * math.sqrt(conv_macs / base)))
    return search.around(search.refined(guess))


class _Search:
    def __init__(
        self,
        specs: Sequence[NetworkSpec],
        target: int,
        on_trial: Callable[[int, float], None],
    ) -> None:
        self._specs, self._target, self._on_trial = specs, target, on_trial
        self._means: dict[int, float] = {}
        self._refusal: SpecError | None = None

    def mean(self, width: int) -> float | None:
        """The mean cost at a width; None where the blocks refuse it."""
        if width not in self._means:
            try:
                costs = [count(with_first_width(spec, width)).conv_macs for spec in self._specs]
            except SpecError as error:
                self._refusal = error
                return None
            self._means[width] = sum(costs) / len(costs)
            self._on_trial(width, self._means[width])
        return self._means[width]

    def refined(self, guess: int) -> int:
        """One more guess from where the first one came out."""
        found = self.mean(guess)
        return max(1, round(guess * math.sqrt(self._target / found))) if found else guess

    def around(self, guess: int) -> int:
        """The best of the widths from `guess` on to the first one beyond the target."""
        here = self.mean(guess)
        if here is None:
            self._step(guess, 1)
            self._step(guess, -1)
        else:
            self._step(guess, 1 if here < self._target else -1)
        if not self._means:
            assert self._refusal is not None
            raise self._refusal
        return min(self._means, key=lambda width: (abs(self._means[width] - self._target), width))

    def _step(self, width: int, direction: int) -> None:
        for step in range(1, MAX_TRIALS):
            if width + direction * step < 1:
                return
            mean = self.mean(width + direction * step)
            if mean is not None and (mean - self._target) * direction >= 0:
                return
