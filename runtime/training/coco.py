"""Images with boxes, in COCO's files: `ROOT/annotations/instances_<part>.json` and the images."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from runtime.training.batches import Dataset, Share, TrainingBatches
from runtime.training.errors import DataError
from runtime.training.folders import GREY, IMAGENET
from runtime.training.loading import Key, LoadedBatches, Samples, load_in_order, read_image
from runtime.training.recipe import Recipe

Target = dict[str, Any]
"""Of an image: boxes (N, 4) as x1, y1, x2, y2 in pixels, labels (N,) from 1, and its image_id."""
DetectionBatch = tuple[list[Tensor], list[Target]]
"""Images (C, H, W) in [0, 1], each of its own size, and their targets."""


@dataclass(frozen=True)
class Image:
    """One picture of a part; `size` is (width, height) if the file of annotations says so."""

    id: int
    path: str
    size: tuple[int, int] | None
    boxes: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Part:
    """The training, validation or test images of a data set.

    `truth` is what pycocotools compares with: all annotations, with ids from 1, because it takes
    the id 0 for "not found". `dropped` boxes are those without an area, useless for training.
    """

    name: str
    images: list[Image]
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    truth: dict[str, Any]
    dropped: int


class CocoDataset(Dataset[DetectionBatch]):
    """Labels are 1 .. num_classes in the order of the category ids, which may have gaps.

    Boxes marked `iscrowd` do not train, and are ignored by the evaluation. Images without boxes
    train as background.
    """

    def __init__(self, root: Path, channels: int, test_part: str = "val") -> None:
        if channels not in (1, 3):
            raise DataError(f"{root}: images have 1 or 3 channels, not {channels}")
        self.name, self.channels = str(root), channels
        self.train, self.test = read_part(root, "train"), read_part(root, test_part)
        if _categories(self.train) != _categories(self.test):
            raise DataError(
                f"{root}: train has the categories {_listed(self.train)}, {test_part} has "
                f"{_listed(self.test)}"
            )
        if not any(len(image.boxes) for image in self.train.images):
            raise DataError(f"{root}: no training image has a box")
        self.classes = self.train.classes
        self.num_classes = len(self.classes)
        self.normalization = IMAGENET if channels == 3 else GREY

    @property
    def notes(self) -> list[str]:
        """What was done to the data without being asked."""
        dropped = self.train.dropped
        return [f"{dropped} training boxes without an area were left out"] if dropped else []

    def training(
        self, recipe: Recipe, share: Share, seed: int, device: torch.device, workers: int
    ) -> TrainingBatches[DetectionBatch]:
        images = _Images(self.train.images, self.channels, flip=recipe.horizontal_flip)
        return LoadedBatches(images, share, seed, device, workers)

    def testing(
        self, batch_size: int, device: torch.device, workers: int, rank: int = 0, world: int = 1
    ) -> Iterator[DetectionBatch]:
        images = _Images(self.test.images, self.channels)
        return load_in_order(images, batch_size, device, workers, rank, world)


class _Images(Samples[DetectionBatch]):
    def __init__(self, images: list[Image], channels: int, *, flip: bool = False) -> None:
        self.images, self.channels, self.flip = images, channels, flip

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: Key) -> tuple[Tensor, Target] | str:
        index, seed = key
        image = self.images[index]
        pixels = read_image(image.path, self.channels)
        if isinstance(pixels, str):
            return pixels
        height, width = pixels.shape[1:]
        if image.size not in (None, (width, height)):
            assert image.size is not None
            told = "x".join(map(str, image.size))
            return f"{image.path}: it has {width}x{height} pixels, its annotation says {told}"
        boxes = image.boxes
        generator = torch.Generator().manual_seed(seed)
        if self.flip and float(torch.rand((), generator=generator)) < 0.5:
            pixels = pixels.flip(2)
            x1, y1, x2, y2 = boxes.unbind(1)
            boxes = torch.stack((width - x2, y1, width - x1, y2), 1)
        return pixels, {"boxes": boxes, "labels": image.labels, "image_id": image.id}

    def batch(self, samples: list[tuple[Tensor, Target]]) -> DetectionBatch:
        return [pixels for pixels, _ in samples], [target for _, target in samples]

    def finish(self, batch: DetectionBatch, device: torch.device) -> DetectionBatch:
        images = [pixels.to(device, non_blocking=True) / 255 for pixels in batch[0]]
        targets = [
            {
                name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
                for name, value in target.items()
            }
            for target in batch[1]
        ]
        return images, targets


def read_part(root: Path, part: str) -> Part:
    """The images and boxes of a part.

    Raises: DataError for files that are missing or that say what cannot be.
    """
    file, year = _annotation_file(root, part)
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {file}: {error}") from error
    entries = {name: _entries(file, content, name) for name in _NEEDED}
    ids = sorted(category["id"] for category in entries["categories"])
    names = {category["id"]: category["name"] for category in entries["categories"]}
    for name in ("images", "categories"):
        _check_unique(file, name, [entry["id"] for entry in entries[name]])
    for index, image in enumerate(entries["images"]):
        name = image["file_name"]
        if not isinstance(name, str):
            raise DataError(f"{file}: images[{index}] has the file_name {name!r}, which is no text")
    folder = _image_folder(root, part, year, file, entries["images"])
    by_image: dict[Any, list[dict[str, Any]]] = {image["id"]: [] for image in entries["images"]}
    for index, annotation in enumerate(entries["annotations"]):
        _check_annotation(f"{file}: annotations[{index}]", annotation, by_image, names)
        by_image[annotation["image_id"]].append(annotation)
    labels = {category_id: label for label, category_id in enumerate(ids, start=1)}
    images = [_image(entry, folder, by_image[entry["id"]], labels) for entry in entries["images"]]
    return Part(
        name=part,
        images=images,
        classes=tuple(names[category_id] for category_id in ids),
        category_ids=tuple(ids),
        truth=_truth(entries),
        dropped=sum(
            not (_has_area(annotation) or annotation.get("iscrowd"))
            for annotation in entries["annotations"]
        ),
    )


_NEEDED = {
    "images": ("id", "file_name"),
    "annotations": ("image_id", "category_id", "bbox"),
    "categories": ("id", "name"),
}


def _annotation_file(root: Path, part: str) -> tuple[Path, str]:
    """The file and the year in its name, newest first: COCO's own files have one."""
    if not root.is_dir():
        raise DataError(
            f"{root} is no folder; detection trains on a folder with annotations/"
            "instances_train.json, annotations/instances_val.json and images/"
        )
    for suffix in ("", "2017", "2014"):
        file = root / "annotations" / f"instances_{part}{suffix}.json"
        if file.is_file():
            return file, suffix
    found = sorted(path.name for path in (root / "annotations").glob("*.json"))
    raise DataError(
        f"{root} has no annotations/instances_{part}.json or instances_{part}2017.json "
        f"(found: {', '.join(found) or 'no annotations/*.json'})"
    )


def _entries(file: Path, content: Any, name: str) -> list[dict[str, Any]]:
    entries = content.get(name) if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise DataError(f"{file} has no list {name!r}; it is not COCO's format of instances")
    if not entries and name != "annotations":
        raise DataError(f"{file}: the list {name!r} is empty")
    for index, entry in enumerate(entries):
        for key in _NEEDED[name]:
            if not isinstance(entry, dict) or key not in entry:
                raise DataError(f"{file}: {name}[{index}] has no {key!r}")
    return entries


def _check_unique(file: Path, name: str, ids: list[Any]) -> None:
    seen: set[Any] = set()
    for found in ids:
        if not isinstance(found, int) or found in seen:
            problem = "twice" if isinstance(found, int) else "which is no whole number"
            raise DataError(f"{file}: {name} have the id {found!r} {problem}")
        seen.add(found)


def _check_annotation(
    where: str, annotation: dict[str, Any], images: dict[Any, Any], names: dict[Any, Any]
) -> None:
    for key, known in (("image_id", images), ("category_id", names)):
        if annotation[key] not in known:
            raise DataError(f"{where} has the {key} {annotation[key]!r}, which is not listed")
    box = annotation["bbox"]
    is_box = isinstance(box, list) and len(box) == 4
    if not is_box or not all(isinstance(v, int | float) and math.isfinite(v) for v in box):
        raise DataError(f"{where} has the bbox {box!r}, not [x, y, width, height]")


def _has_area(annotation: dict[str, Any]) -> bool:
    return annotation["bbox"][2] > 0 and annotation["bbox"][3] > 0


def _image_folder(
    root: Path, part: str, year: str, file: Path, images: list[dict[str, Any]]
) -> Path:
    """The folder that holds the first image; all others must be there too."""
    first = images[0]["file_name"]
    folders = [root / f"{part}{year}", root / "images" / f"{part}{year}", root / "images", root]
    folder = next((folder for folder in folders if (folder / first).is_file()), None)
    if folder is None:
        raise DataError(
            f"{file} lists {first}, which is in none of "
            + ", ".join(str(folder) for folder in folders)
        )
    missing = [name for image in images if not (folder / (name := image["file_name"])).is_file()]
    if missing:
        raise DataError(
            f"{file} lists {len(missing)} images that are not in {folder}, e.g. {missing[0]}"
        )
    return folder


def _image(
    entry: dict[str, Any], folder: Path, annotations: list[dict[str, Any]], labels: dict[int, int]
) -> Image:
    kept = [a for a in annotations if _has_area(a) and not a.get("iscrowd")]
    boxes = torch.tensor([a["bbox"] for a in kept], dtype=torch.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    size = (entry["width"], entry["height"]) if entry.keys() >= {"width", "height"} else None
    return Image(
        id=entry["id"],
        path=str(folder / entry["file_name"]),
        size=size,
        boxes=boxes,
        labels=torch.tensor([labels[a["category_id"]] for a in kept], dtype=torch.int64),
    )


def _truth(entries: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    annotations = [
        {
            "id": number,
            "image_id": annotation["image_id"],
            "category_id": annotation["category_id"],
            "bbox": annotation["bbox"],
            "area": annotation.get("area", annotation["bbox"][2] * annotation["bbox"][3]),
            "iscrowd": annotation.get("iscrowd", 0),
        }
        for number, annotation in enumerate(entries["annotations"], start=1)
    ]
    return {
        "images": [{"id": image["id"]} for image in entries["images"]],
        "categories": [{"id": category["id"]} for category in entries["categories"]],
        "annotations": annotations,
    }


def _categories(part: Part) -> tuple[tuple[int, ...], tuple[str, ...]]:
    return part.category_ids, part.classes


def _listed(part: Part) -> str:
    return ", ".join(f"{i} {n}" for i, n in zip(part.category_ids, part.classes, strict=True))
