"""Opens data by the name a user types: a known set, a folder of images, or an .npz file."""

from __future__ import annotations

import difflib
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import torch
from torch import Tensor

from runtime.training.arrays import ArrayDataset
from runtime.training.batches import Dataset
from runtime.training.errors import DataError
from runtime.training.folders import FolderDataset

TORCHVISION = {
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
    "fashion_mnist": "FashionMNIST",
    "mnist": "MNIST",
}
NAMES = ("digits", "imagenet", *TORCHVISION)
ARRAYS = ("x_train", "y_train", "x_test", "y_test")


def open_data(
    name: str, folder: Path, input_shape: tuple[int, int, int], *, download: bool = False
) -> Dataset:
    """The data set called `name`; torchvision's sets are looked for below `folder`.

    Raises: DataError saying what was looked for, where, and what to do.
    """
    if name == "digits":
        return digits()
    if name in TORCHVISION:
        return torchvision_set(name, folder, download=download)
    if name == "imagenet":
        return FolderDataset(_existing(folder / "imagenet"), input_shape)
    check_name(name)
    path = Path(name)
    return FolderDataset(path, input_shape) if path.is_dir() else npz(path)


def check_name(name: str) -> None:
    """Refuses what is no known set, no folder and no .npz file.

    Raises: DataError with the set that may have been meant.
    """
    path = Path(name)
    if name in NAMES or path.is_dir() or path.suffix == ".npz":
        return
    close = difflib.get_close_matches(name, NAMES, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise DataError(
        f"no data {name!r}{hint} (a known set: {', '.join(sorted(NAMES))}; a folder with train/ "
        "and val/; or a file FILE.npz)"
    )


def digits() -> ArrayDataset:
    """scikit-learn's 1,797 digits of 8x8: every class split 4 : 1, the same for every seed.

    The set comes without a split of its own. 1,437 images train, 360 test.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(images, labels, test_size=0.2, stratify=labels, random_state=0)
    x_train, x_test, y_train, y_test = (torch.from_numpy(part) for part in parts)

    def pixels(x: Tensor) -> Tensor:
        return (x.float() / 16).view(-1, 1, 8, 8)

    return ArrayDataset("digits", pixels(x_train), y_train, pixels(x_test), y_test)


def torchvision_set(name: str, folder: Path, *, download: bool) -> ArrayDataset:
    """One of torchvision's sets that fit in memory."""
    from torchvision import datasets

    make: Callable[..., Any] = getattr(datasets, TORCHVISION[name])
    try:
        train, test = (make(folder, train=part, download=download) for part in (True, False))
    except (RuntimeError, OSError) as error:
        reason = str(error).split(". ", maxsplit=1)[0].rstrip(".")
        raise DataError(
            f"{name} is not in {folder.absolute()}: {reason}; give --data-dir FOLDER, or fetch it "
            f"with `graphc train ... --data {name} --download`"
        ) from error
    parts = [_nchw(name, torch.as_tensor(part.data)) for part in (train, test)]
    labels = [torch.as_tensor(part.targets) for part in (train, test)]
    return ArrayDataset(name, parts[0], labels[0], parts[1], labels[1])


def npz(path: Path) -> ArrayDataset:
    """Arrays x_train, y_train, x_test, y_test: images NHWC or NHW if uint8, NCHW if float."""
    import numpy as np

    try:
        with _existing(path).open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            missing = [name for name in ARRAYS if name not in file]
            if missing:
                raise DataError(
                    f"{path} lacks {', '.join(missing)} (found: {', '.join(file) or 'nothing'})"
                )
            x_train, y_train, x_test, y_test = (torch.from_numpy(file[name]) for name in ARRAYS)
    except (OSError, ValueError, EOFError, TypeError, BadZipFile, zlib.error) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    return ArrayDataset(
        str(path),
        _nchw(str(path), x_train),
        y_train.flatten(),
        _nchw(str(path), x_test),
        y_test.flatten(),
    )


def _nchw(name: str, images: Tensor) -> Tensor:
    shape = "x".join(str(size) for size in images.shape)
    if images.dtype == torch.uint8 and images.ndim == 3:
        return images.unsqueeze(1)
    if images.dtype == torch.uint8 and images.ndim == 4:
        if images.shape[3] > 4 >= images.shape[1]:
            raise DataError(
                f"{name}: uint8 images of shape {shape} look like NCHW; store uint8 as NHWC, or "
                "float as NCHW"
            )
        return images.permute(0, 3, 1, 2).contiguous()
    if images.is_floating_point() and images.ndim == 4:
        return images.float()
    raise DataError(
        f"{name}: images of type {str(images.dtype).removeprefix('torch.')} and shape {shape}; "
        "uint8 images are NHWC or NHW, float images NCHW"
    )


def _existing(path: Path) -> Path:
    if not path.exists():
        raise DataError(f"{path.absolute()} does not exist")
    return path
