"""What is trained on what."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from graphspec import NetworkSpec, content_hash
from runtime.training.errors import DataError
from runtime.training.recipe import Recipe

TaskName = Literal["classification", "detection"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is trained on what. Equal jobs share a run folder, and with it their checkpoints."""

    spec: NetworkSpec
    recipe: Recipe
    data: str
    data_dir: Path = Path("data")
    seed: int = 0
    bf16: bool = False
    initial_weights: Path | None = None

    @property
    def task(self) -> TaskName:
        """A recipe for detection has a section of that name."""
        return "classification" if self.recipe.detection is None else "detection"

    @cached_property
    def identity(self) -> str:
        """A hash of everything that decides the result; places and devices do not.

        Raises: DataError if the initial weights cannot be read.
        """
        parts: dict[str, Any] = {
            "spec": content_hash(self.spec),
            "recipe": self.recipe.as_mapping(),
            "data": self.data,
            "seed": self.seed,
            "bf16": self.bf16,
        }
        if self.initial_weights is not None:
            try:
                with self.initial_weights.open("rb") as file:
                    parts["initial_weights"] = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                raise DataError(f"cannot read {self.initial_weights}: {error.strerror}") from error
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:8]
