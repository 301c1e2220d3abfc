"""Images read from disk as they are needed: `ROOT/train/<class>/*`, `ROOT/val/<class>/*`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from runtime.training.batches import Batch, Dataset, Normalization, Share, TrainingBatches
from runtime.training.errors import DataError
from runtime.training.loading import Key, LoadedBatches, Samples, load_in_order, read_image
from runtime.training.recipe import Recipe

IMAGENET = Normalization(1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
GREY = Normalization(1 / 255, (0.449,), (0.226,))
TRAIN_FOLDERS, TEST_FOLDERS = ("train",), ("val", "test")


class FolderDataset(Dataset[Batch]):
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
    ) -> TrainingBatches[Batch]:
        transform = _training_transform(recipe, self.size)
        images = _Images(self.train_samples, self.channels, transform, self.normalization)
        return LoadedBatches(images, share, seed, device, workers)

    def testing(
        self, batch_size: int, device: torch.device, workers: int, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        transform = _testing_transform(self.size)
        images = _Images(self.test_samples, self.channels, transform, self.normalization)
        return load_in_order(images, batch_size, device, workers, rank, world)


class _Images(Samples[Batch]):
    def __init__(
        self,
        samples: list[tuple[str, int]],
        channels: int,
        transform: Any,
        normalization: Normalization,
    ) -> None:
        self.samples, self.channels = samples, channels
        self.transform, self.normalization = transform, normalization

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: Key) -> tuple[Tensor, int] | str:
        index, seed = key
        path, label = self.samples[index]
        pixels = read_image(path, self.channels)
        if isinstance(pixels, str):
            return pixels
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return self.transform(pixels), label

    def batch(self, samples: list[tuple[Tensor, int]]) -> Batch:
        images, labels = zip(*samples, strict=True)
        return torch.stack(images), torch.tensor(labels)

    def finish(self, batch: Batch, device: torch.device) -> Batch:
        images, labels = (part.to(device, non_blocking=True) for part in batch)
        return self.normalization(images), labels


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
