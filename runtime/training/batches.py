"""Which samples a step sees: data sets, and the order in which they are used.

Everything here is a function of (seed, epoch, step): a run that goes on after a crash, or on
another number of processes, sees the same global batches with the same augmentation, and
there is no sampler or generator state to save.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from runtime.training.errors import DataError
from runtime.training.recipe import Recipe

B = TypeVar("B", bound=tuple[Any, Any])
"""A batch: what the network is fed, and what it should make of it."""
Batch = tuple[Tensor, Tensor]
"""Images (B, C, H, W), normalised, and labels (B,)."""


def derive_seed(*parts: int | str) -> int:
    """A seed for one purpose, equal in every process; different parts give unrelated seeds."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@dataclass(frozen=True)
class Share:
    """The part of each global batch that one process handles, in `accumulate` micro-batches.

    Micro-batch m of process r takes the same samples as micro-batch m * world + r of a
    single process, so that 1, 2 and 4 processes compute the same sums.
    """

    batch_size: int
    rank: int = 0
    world: int = 1
    accumulate: int = 1

    def __post_init__(self) -> None:
        parts = self.world * self.accumulate
        if self.batch_size % parts:
            raise DataError(
                f"a batch of {self.batch_size} does not split into {self.world} processes x "
                f"{self.accumulate} micro-batches; use a multiple of {parts}"
            )

    @property
    def micro_size(self) -> int:
        return self.batch_size // (self.world * self.accumulate)

    def slices(self) -> list[slice]:
        """Positions within the global batch, one slice a micro-batch."""
        starts = [
            (micro * self.world + self.rank) * self.micro_size for micro in range(self.accumulate)
        ]
        return [slice(start, start + self.micro_size) for start in starts]


@dataclass(frozen=True)
class Normalization:
    """Brings stored images to what the network is fed: (scale * x - mean) / std a channel."""

    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: Tensor) -> Tensor:
        mean = torch.tensor(self.mean, device=images.device)[:, None, None]
        std = torch.tensor(self.std, device=images.device)[:, None, None]
        return (images.float() * self.scale - mean) / std


class TrainingBatches(ABC, Generic[B]):
    """Training data in shuffled batches; an incomplete last batch is left out."""

    def __init__(self, num_samples: int, share: Share, seed: int) -> None:
        if num_samples < share.batch_size:
            raise DataError(
                f"the batch size {share.batch_size} is more than the {num_samples} training samples"
            )
        self.num_samples, self.share, self.seed = num_samples, share, seed

    @property
    def steps_per_epoch(self) -> int:
        return self.num_samples // self.share.batch_size

    def order(self, epoch: int) -> Tensor:
        """Sample indices in the order of the epoch. Shape: (steps, batch_size)."""
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", epoch))
        order = torch.randperm(self.num_samples, generator=generator)
        used = self.steps_per_epoch * self.share.batch_size
        return order[:used].view(self.steps_per_epoch, self.share.batch_size)

    def augmentation_seed(self, epoch: int, step: int) -> int:
        return derive_seed(self.seed, "augment", epoch, step)

    @abstractmethod
    def epoch(self, epoch: int, start: int = 0) -> Iterator[list[B]]:
        """The micro-batches of this process, step by step from step `start` of the epoch."""


class Dataset(ABC, Generic[B]):
    """Labelled images for training and for testing. Labels are 0 .. num_classes - 1."""

    name: str
    num_classes: int
    channels: int
    normalization: Normalization

    @property
    def notes(self) -> list[str]:
        """What was done to the data that nobody asked for."""
        return []

    @abstractmethod
    def training(
        self, recipe: Recipe, share: Share, seed: int, device: torch.device, workers: int
    ) -> TrainingBatches[B]:
        """Augmented batches for training."""

    @abstractmethod
    def testing(
        self, batch_size: int, device: torch.device, workers: int, rank: int = 0, world: int = 1
    ) -> Iterator[B]:
        """This process's part of the test set, in order, unaugmented."""
