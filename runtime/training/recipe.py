"""How a network is trained, as data. Reading recipe files is the compiler's part (YAML)."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

UNDECAYED_GROUPS = ("norm", "bias", "edges")
LR_DROP = 0.1
"""What is left of the learning rate after each of a recipe's `lr_drops`."""
_NOT_FOR_DETECTION = ("label_smoothing", "crop_padding", "resized_crop", "mac_budget")


class RecipeError(ValueError):
    """A recipe that cannot be; `key` names the wrong entry ("" for the whole)."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(f"{key}: {message}" if key else message)
        self.key, self.message = key, message


@dataclass(frozen=True, kw_only=True)
class DetectionRecipe:
    """The part of a recipe that detection has: sizes of images and of Faster R-CNN.

    `frozen_norm`: batch norms keep the statistics and scales they start with. `proposals` are
    those that the RPN keeps of a level, and then of an image; `sampled_boxes` those of an image
    that the heads learn from. Anchors have a side of `anchor_scale` strides.

    Source: Lin et al. 2017 (the defaults).
    """

    min_size: int
    max_size: int
    frozen_norm: bool = False
    fpn_channels: int = 256
    head_width: int = 1024
    anchor_scale: int = 8
    proposals: int = 2000
    test_proposals: int = 1000
    sampled_boxes: int = 512

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if field.name != "frozen_norm" and getattr(self, field.name) < 1:
                raise RecipeError(f"detection.{field.name}", "is not above 0")
        if self.max_size < self.min_size:
            raise RecipeError(
                "detection.max_size", f"{self.max_size} is less than min_size, {self.min_size}"
            )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """SGD with momentum, a linear warm-up, then half a cosine to zero; both step by step.

    With `lr_drops` the rate stays, and falls to a tenth after each of these epochs.

    Source: DG-Net, appendix 6.1.
    """

    epochs: int
    batch_size: int
    lr: float
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    no_weight_decay: tuple[str, ...] = ()
    warmup_epochs: float = 0.0
    label_smoothing: float = 0.0
    ema_decay: float | None = None
    clip_norm: float | None = None
    drop_edge: float = 0.0
    mac_budget: float | None = None
    mac_budget_weight: float = 10.0
    crop_padding: int = 0
    resized_crop: bool = False
    horizontal_flip: bool = False
    lr_drops: tuple[int, ...] = ()
    detection: DetectionRecipe | None = None

    def __post_init__(self) -> None:
        for name, (low, high) in _BOUNDS.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise RecipeError(name, f"{value} is not within {low} .. {high}")
        self._check_schedule()
        if self.nesterov and self.momentum == 0:
            raise RecipeError("nesterov", "has no meaning with momentum 0")
        if self.crop_padding and self.resized_crop:
            raise RecipeError("crop_padding", "crops a second time beside resized_crop; use one")
        if self.detection is not None:
            for name in _NOT_FOR_DETECTION:
                if getattr(self, name):
                    raise RecipeError(name, "is for classification, and has no effect here")
        for group in self.no_weight_decay:
            if group not in UNDECAYED_GROUPS:
                raise RecipeError("no_weight_decay", _unknown(group, UNDECAYED_GROUPS))

    def _check_schedule(self) -> None:
        if self.lr <= 0:
            raise RecipeError("lr", f"{self.lr} is not above 0")
        if self.warmup_epochs > self.epochs:
            raise RecipeError(
                "warmup_epochs",
                f"{self.warmup_epochs} is more than the {self.epochs} epochs of the recipe; "
                "shorten it, e.g. warmup_epochs=0",
            )
        if list(self.lr_drops) != sorted({d for d in self.lr_drops if 0 < d < self.epochs}):
            raise RecipeError(
                "lr_drops",
                f"{list(self.lr_drops)} are not growing epochs within the {self.epochs} of the "
                "recipe; e.g. lr_drops=[]",
            )

    @staticmethod
    def from_mapping(entries: Mapping[str, Any]) -> Recipe:
        """The recipe that a file's mapping describes.

        Raises: RecipeError for an unknown key, a missing one, a wrong type or value.
        """
        return _from_mapping(Recipe, entries, "")

    def as_mapping(self) -> dict[str, Any]:
        """Every entry, in the order of the fields; `from_mapping` gives an equal recipe.

        `lr_drops` and `detection` only if they say something: runs are named after this, and
        those from before these entries keep their names.
        """
        entries = dataclasses.asdict(self)
        for name in ("lr_drops", "detection"):
            if not entries[name]:
                del entries[name]
        return {k: list(v) if isinstance(v, tuple) else v for k, v in entries.items()}


_BOUNDS: dict[str, tuple[float, float]] = {
    "epochs": (1, 100_000),
    "batch_size": (1, 1_000_000),
    "lr": (0, 1e6),
    "momentum": (0, 1),
    "weight_decay": (0, 1),
    "warmup_epochs": (0, 100_000),
    "label_smoothing": (0, 1),
    "ema_decay": (0, 1),
    "clip_norm": (1e-12, 1e12),
    "drop_edge": (0, 1),
    "mac_budget": (0, 1),
    "mac_budget_weight": (0, 1e6),
    "crop_padding": (0, 1024),
}


R = TypeVar("R", Recipe, DetectionRecipe)


def _from_mapping(kind: type[R], entries: Mapping[str, Any], prefix: str) -> R:
    hints = typing.get_type_hints(kind)
    required = [
        field.name for field in dataclasses.fields(kind) if field.default is dataclasses.MISSING
    ]
    for key in entries:
        if key not in hints:
            raise RecipeError(f"{prefix}{key}", _unknown(str(key), tuple(hints)))
    for key in required:
        if key not in entries:
            raise RecipeError(f"{prefix}{key}", "is missing; needed are " + ", ".join(required))
    return kind(
        **{key: _convert(f"{prefix}{key}", value, hints[key]) for key, value in entries.items()}
    )


def _unknown(name: str, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"unknown name {name!r}{hint} (known: {', '.join(known)})"


def _convert(key: str, value: Any, hint: Any) -> Any:
    """The value in the field's type: an int may stand for a float, nothing else is bent."""
    if isinstance(hint, types.UnionType):
        if value is None:
            return None
        (hint,) = (option for option in typing.get_args(hint) if option is not type(None))
    if hint is DetectionRecipe:
        if not isinstance(value, Mapping):
            raise RecipeError(key, f"{value!r} is not a mapping of names to values")
        return _from_mapping(DetectionRecipe, value, f"{key}.")
    if typing.get_origin(hint) is tuple:
        element = typing.get_args(hint)[0]
        if not isinstance(value, list | tuple) or not all(type(v) is element for v in value):
            noun = {str: "names", int: "whole numbers"}[element]
            raise RecipeError(key, f"{value!r} is not a list of {noun}")
        return tuple(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is not bool and isinstance(value, bool)):
        noun = {int: "a whole number", float: "a number", bool: "true or false"}[hint]
        raise RecipeError(key, f"{value!r} is not {noun}")
    return value
