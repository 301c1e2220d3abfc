"""Images that fit in memory: held on the device that trains, augmented a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from runtime.training.batches import Batch, Dataset, Normalization, Share, TrainingBatches
from runtime.training.errors import DataError
from runtime.training.recipe import Recipe


class ArrayDataset(Dataset[Batch]):
    """Shape: x_* (N, C, H, W), uint8 or float; y_* (N,)."""

    def __init__(
        self, name: str, x_train: Tensor, y_train: Tensor, x_test: Tensor, y_test: Tensor
    ) -> None:
        for part, images, labels in (("train", x_train, y_train), ("test", x_test, y_test)):
            _check(name, part, images, labels)
        if x_train.shape[1:] != x_test.shape[1:]:
            raise DataError(
                f"{name}: training images are {_show(x_train)}, test images {_show(x_test)}"
            )
        self.name = name
        self.x_train, self.y_train = x_train, y_train.long()
        self.x_test, self.y_test = x_test, y_test.long()
        self.num_classes = int(torch.maximum(self.y_train.max(), self.y_test.max())) + 1
        self.channels = x_train.shape[1]
        self.normalization = _normalization(x_train)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        _, channels, height, width = self.x_train.shape
        return channels, height, width

    def training(
        self, recipe: Recipe, share: Share, seed: int, device: torch.device, workers: int
    ) -> TrainingBatches[Batch]:
        del workers  # nothing is read from disk
        if recipe.resized_crop:
            raise DataError("resized_crop is for image folders; use crop_padding for arrays")
        return ArrayBatches(
            self.x_train.to(device),
            self.y_train.to(device),
            share,
            seed,
            normalization=self.normalization,
            crop_padding=recipe.crop_padding,
            horizontal_flip=recipe.horizontal_flip,
        )

    def testing(
        self, batch_size: int, device: torch.device, workers: int, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        del workers
        for start in range(rank * batch_size, len(self.x_test), world * batch_size):
            part = slice(start, start + batch_size)
            images = self.normalization(self.x_test[part].to(device))
            yield images, self.y_test[part].to(device)


class ArrayBatches(TrainingBatches[Batch]):
    """Batches from memory.

    torchvision's v2 transforms draw once a call, so they would have to run image by image:
    110 us an image of 28x28 for crop and flip, against 6 us here (one CPU core).
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        share: Share,
        seed: int,
        *,
        normalization: Normalization,
        crop_padding: int = 0,
        horizontal_flip: bool = False,
    ) -> None:
        super().__init__(len(images), share, seed)
        self.images, self.labels = images, labels
        self.normalization = normalization
        self.crop_padding, self.horizontal_flip = crop_padding, horizontal_flip

    def epoch(self, epoch: int, start: int = 0) -> Iterator[list[Batch]]:
        order = self.order(epoch)
        for step in range(start, len(order)):
            generator = torch.Generator().manual_seed(self.augmentation_seed(epoch, step))
            draws = torch.rand(self.share.batch_size, 3, generator=generator)
            yield [self._batch(order[step, part], draws[part]) for part in self.share.slices()]

    def _batch(self, indices: Tensor, draws: Tensor) -> Batch:
        device = self.images.device
        indices, draws = indices.to(device), draws.to(device)
        images = self.images[indices]
        if self.crop_padding:
            images = shift(images, draws[:, :2], self.crop_padding)
        if self.horizontal_flip:
            flipped = draws[:, 2] < 0.5
            images = torch.where(flipped[:, None, None, None], images.flip(3), images)
        return self.normalization(images), self.labels[indices]


def shift(images: Tensor, draws: Tensor, padding: int) -> Tensor:
    """Each image moved by up to `padding` pixels each way; zeros move in.

    Shape: images (B, C, H, W), draws (B, 2) in [0, 1) -> (B, C, H, W)
    """
    num, channels, height, width = images.shape
    device = images.device
    padded = torch.nn.functional.pad(images, (padding, padding, padding, padding))
    offsets = (draws * (2 * padding + 1)).long()
    rows = offsets[:, 0, None] + torch.arange(height, device=device)
    columns = offsets[:, 1, None] + torch.arange(width, device=device)
    sample = torch.arange(num, device=device)[:, None, None, None]
    channel = torch.arange(channels, device=device)[:, None, None]
    return padded[sample, channel, rows[:, None, :, None], columns[:, None, None, :]]


def _normalization(images: Tensor) -> Normalization:
    """Mean and standard deviation of each channel of the training images."""
    scale = 1 / 255 if images.dtype == torch.uint8 else 1.0
    total, squares = torch.zeros(images.shape[1]), torch.zeros(images.shape[1])
    chunks = images.split(4096)
    for chunk in chunks:  # a float copy of everything at once would be four times the data
        values = chunk.float() * scale
        total = total + values.mean((0, 2, 3)) * len(chunk) / len(images)
        squares = squares + values.square().mean((0, 2, 3)) * len(chunk) / len(images)
    std = (squares - total.square()).clamp_min(1e-12).sqrt()
    return Normalization(scale, tuple(total.tolist()), tuple(std.tolist()))


def _check(name: str, part: str, images: Tensor, labels: Tensor) -> None:
    if images.ndim != 4 or len(images) == 0:
        raise DataError(f"{name}: the {part} images are {_show(images)}, not (N, C, H, W)")
    if labels.shape != images.shape[:1]:
        raise DataError(f"{name}: {len(images)} {part} images, but labels of shape {_show(labels)}")
    if labels.is_floating_point() or int(labels.min()) < 0:
        raise DataError(f"{name}: the {part} labels are not whole numbers from 0")
    if images.is_floating_point() and not bool(images.isfinite().all()):
        bad = int((~images.isfinite().flatten(1).all(1)).nonzero()[0])
        raise DataError(f"{name}: {part} image {bad} holds values that are not finite")


def _show(tensor: Tensor) -> str:
    return "x".join(str(size) for size in tensor.shape)
