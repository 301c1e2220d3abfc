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
    def label(self) -> str:
        """A hash of what was asked for, which names the run folder; no file needs to be there."""
        return _hash(
            {
                "spec": content_hash(self.spec),
                "recipe": self.recipe.as_mapping(),
                "data": self.data,
                "seed": self.seed,
                "bf16": self.bf16,
                "initial_weights": self.initial_weights and str(self.initial_weights),
            }
        )

    @cached_property
    def identity(self) -> str:
        """A hash of everything that decides the result, what is in files too; devices do not.

        Of folders of images the name alone counts.

        Raises: DataError if the initial weights or the data cannot be read.
        """
        files = [self.initial_weights, Path(self.data) if self.data.endswith(".npz") else None]
        return _hash({"label": self.label, "files": [file and _digest(file) for file in files]})


def _hash(parts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:8]


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
