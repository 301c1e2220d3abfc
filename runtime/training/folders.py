"""Images read from disk as they are needed: `ROOT/train/<class>/*`, `ROOT/val/<class>/*`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from runtime.training.batches import (
    Batch,
    Dataset,
    Normalization,
    Share,
    TrainingBatches,
    derive_seed,
)
from runtime.training.errors import DataError
from runtime.training.recipe import Recipe

IMAGENET = Normalization(1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
GREY = Normalization(1 / 255, (0.449,), (0.226,))
TRAIN_FOLDERS, TEST_FOLDERS = ("train",), ("val", "test")


class FolderDataset(Dataset):
    """torchvision ImageFolder's layout; images are brought to the network's input size."""

    def __init__(self, root: Path, input_shape: tuple[int, int, int]) -> None:
        from torchvision.datasets import ImageFolder

        self.name = str(root)
        self.channels, *self.size = input_shape
        if self.channels not in (1, 3):
            raise DataError(f"{root}: images have 1 or 3 channels, not {self.channels}")
        parts: list[Any] = []
        for names in (TRAIN_FOLDERS, TEST_FOLDERS):
            folder = _first_folder(root, names)
            try:
                parts.append(ImageFolder(folder))
            except (FileNotFoundError, OSError) as error:
                raise DataError(f"{folder}: {error}") from error
        train, test = parts
        if train.classes != test.classes:
            differing = sorted(set(train.classes) ^ set(test.classes))
            raise DataError(f"{root}: these classes are not in both parts: {', '.join(differing)}")
        self.train_samples: list[tuple[str, int]] = train.samples
        self.test_samples: list[tuple[str, int]] = test.samples
        self.num_classes = len(train.classes)
        self.normalization = IMAGENET if self.channels == 3 else GREY

    def training(
        self, recipe: Recipe, share: Share, seed: int, device: torch.device, workers: int
    ) -> TrainingBatches:
        transform = _training_transform(recipe, self.size)
        images = _Images(self.train_samples, self.channels, transform)
        return FolderBatches(images, share, seed, self.normalization, device, workers)

    def testing(
        self, batch_size: int, device: torch.device, workers: int, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        images = _Images(self.test_samples, self.channels, _testing_transform(self.size))
        starts = range(rank * batch_size, len(images), world * batch_size)
        batches = [
            [(index, 0) for index in range(start, min(start + batch_size, len(images)))]
            for start in starts
        ]
        for sample in _load(images, batches, device, workers):
            yield self.normalization(sample[0]), sample[1]


class FolderBatches(TrainingBatches):
    """Batches that worker processes read ahead.

    The seed of a sample's augmentation travels with its index, so that neither the number of
    workers nor a restart changes it.
    """

    def __init__(
        self,
        images: _Images,
        share: Share,
        seed: int,
        normalization: Normalization,
        device: torch.device,
        workers: int,
    ) -> None:
        super().__init__(len(images), share, seed)
        self.images, self.normalization = images, normalization
        self.device, self.workers = device, workers

    def epoch(self, epoch: int, start: int = 0) -> Iterator[list[Batch]]:
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
        micro_batches: list[Batch] = []
        for images, labels in _load(self.images, batches, self.device, self.workers):
            micro_batches.append((self.normalization(images), labels))
            if len(micro_batches) == len(parts):
                yield micro_batches
                micro_batches = []


class _Images(torch.utils.data.Dataset[Any]):
    def __init__(self, samples: list[tuple[str, int]], channels: int, transform: Any) -> None:
        self.samples, self.channels, self.transform = samples, channels, transform

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int] | str:
        """One sample; or, if its file cannot be read, why.

        An exception would reach the user as the traceback of a worker process.
        """
        from PIL import Image
        from torchvision.transforms.v2.functional import pil_to_tensor

        index, seed = key
        path, label = self.samples[index]
        try:
            with Image.open(path) as image:
                pixels = pil_to_tensor(image.convert("RGB" if self.channels == 3 else "L"))
        except (OSError, ValueError, SyntaxError) as error:
            return f"{path}: {error}"
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return self.transform(pixels), label


class _Batches(Sampler[list[tuple[int, int]]]):
    def __init__(self, batches: list[list[tuple[int, int]]]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def _collate(samples: list[tuple[Tensor, int] | str]) -> Batch | str:
    for sample in samples:
        if isinstance(sample, str):
            return sample
    images, labels = zip(*samples, strict=True)
    return torch.stack(images), torch.tensor(labels)


def _load(
    images: _Images, batches: list[list[tuple[int, int]]], device: torch.device, workers: int
) -> Iterator[Batch]:
    loader = DataLoader(
        images,
        batch_sampler=_Batches(batches),
        collate_fn=_collate,
        num_workers=workers,
        pin_memory=device.type == "cuda",
    )
    try:
        for batch in loader:
            if isinstance(batch, str):
                raise DataError(f"unreadable sample {batch}; repair or remove the file")
            yield batch[0].to(device, non_blocking=True), batch[1].to(device, non_blocking=True)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise DataError(
            f"a data worker process died ({error}); often memory ran out: use fewer --workers"
        ) from error


def _training_transform(recipe: Recipe, size: list[int]) -> Any:
    from torchvision.transforms import v2

    steps: list[Any] = []
    if recipe.resized_crop:
        steps.append(v2.RandomResizedCrop(size, antialias=True))
    else:
        steps.append(v2.Resize(size, antialias=True))
    if recipe.crop_padding:
        steps.append(v2.RandomCrop(size, padding=recipe.crop_padding))
    if recipe.horizontal_flip:
        steps.append(v2.RandomHorizontalFlip())
    return v2.Compose(steps)


def _testing_transform(size: list[int]) -> Any:
    """The usual 256 / 224 of the image's shorter side, then the centre."""
    from torchvision.transforms import v2

    resized = round(max(size) * 256 / 224)
    return v2.Compose([v2.Resize(resized, antialias=True), v2.CenterCrop(size)])


def _first_folder(root: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        if (root / name).is_dir():
            return root / name
    found = ", ".join(sorted(os.listdir(root))[:8]) or "nothing"
    raise DataError(f"{root} has no folder {' or '.join(names)} (found: {found})")
