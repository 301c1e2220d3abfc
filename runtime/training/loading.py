"""Samples that worker processes read from disk, ahead of their use."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Generic

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from runtime.training.batches import B, Share, TrainingBatches, derive_seed
from runtime.training.errors import DataError

Key = tuple[int, int]
"""The index of a sample, and the seed of its augmentation."""


class Samples(torch.utils.data.Dataset[Any], ABC, Generic[B]):
    """What can be read: one sample a key, and batches of them.

    A sample that cannot be read is the reason why, as a string: an exception would reach the
    user as the traceback of a worker process.
    """

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, key: Key) -> Any: ...

    @abstractmethod
    def batch(self, samples: list[Any]) -> Any:
        """Puts samples together, in a worker process."""

    @abstractmethod
    def finish(self, batch: Any, device: torch.device) -> B:
        """What the network is fed, on the device."""

    def collate(self, samples: list[Any]) -> Any:
        """The batch, or the reason why there is none."""
        for sample in samples:
            if isinstance(sample, str):
                return sample
        return self.batch(samples)


class LoadedBatches(TrainingBatches[B]):
    """Batches that worker processes read ahead.

    The seed of a sample's augmentation travels with its index, so that neither the number of
    workers nor a restart changes it.
    """

    def __init__(
        self, samples: Samples[B], share: Share, seed: int, device: torch.device, workers: int
    ) -> None:
        super().__init__(len(samples), share, seed)
        self.samples, self.device, self.workers = samples, device, workers

    def epoch(self, epoch: int, start: int = 0) -> Iterator[list[B]]:
        parts = self.share.slices()
        order = self.order(epoch)[start:].tolist()
        batches = [
            [
                (indices[position], derive_seed(self.seed, "augment", epoch, indices[position]))
                for position in range(part.start, part.stop)
            ]
            for indices in order
            for part in parts
        ]
        micro_batches: list[B] = []
        for batch in load(self.samples, batches, self.device, self.workers):
            micro_batches.append(batch)
            if len(micro_batches) == len(parts):
                yield micro_batches
                micro_batches = []


def load_in_order(
    samples: Samples[B],
    batch_size: int,
    device: torch.device,
    workers: int,
    rank: int = 0,
    world: int = 1,
) -> Iterator[B]:
    """All samples, without augmentation: this process's part of the batches."""
    starts = range(rank * batch_size, len(samples), world * batch_size)
    batches = [
        [(index, 0) for index in range(start, min(start + batch_size, len(samples)))]
        for start in starts
    ]
    return load(samples, batches, device, workers)


def load(
    samples: Samples[B], batches: list[list[Key]], device: torch.device, workers: int
) -> Iterator[B]:
    """The batches of these keys.

    Raises: DataError for a sample that cannot be read.
    """
    loader = DataLoader(
        samples,
        batch_sampler=_Batches(batches),
        collate_fn=samples.collate,
        num_workers=workers,
        pin_memory=device.type == "cuda",
    )
    try:
        for batch in loader:
            if isinstance(batch, str):
                raise DataError(f"unreadable sample {batch}; repair or remove the file")
            yield samples.finish(batch, device)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise DataError(
            f"a data worker process died ({error}); often memory ran out: use fewer --workers"
        ) from error


def read_image(path: str, channels: int) -> Tensor | str:
    """The pixels of a file, grey or in colour, or why they cannot be read. Shape: (C, H, W)"""
    from PIL import Image
    from torchvision.transforms.v2.functional import pil_to_tensor

    try:
        with Image.open(path) as image:
            return pil_to_tensor(image.convert("RGB" if channels == 3 else "L"))
    except (OSError, ValueError, SyntaxError) as error:
        return f"{path}: {error}"


class _Batches(Sampler[list[Key]]):
    def __init__(self, batches: list[list[Key]]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[list[Key]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)
