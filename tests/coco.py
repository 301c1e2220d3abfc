"""A data set for detection in COCO's files: rectangles of two colours on grey."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

CATEGORIES = [{"id": 7, "name": "blue"}, {"id": 2, "name": "red"}]
"""Out of order and with gaps: labels are 1 for 2 and 2 for 7."""
COLORS = {2: (220, 30, 30), 7: (30, 30, 220)}
SIZES = [(64, 64), (64, 48), (48, 64)]


def write_coco(
    root: Path, *, train: int = 8, val: int = 4, folder: str = "images", suffix: str = ""
) -> Path:
    """Writes `root` with `train` and `val` images; `{part}` in `folder` stands for their part."""
    rng = random.Random("rectangles")
    for part, count in (("train", train), ("val", val)):
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for index in range(count):
            width, height = SIZES[index % len(SIZES)]
            picture = Image.new("RGB", (width, height), (128, 128, 128))
            pencil = ImageDraw.Draw(picture)
            for category in (2, 7):
                w, h = rng.randint(14, 20), rng.randint(14, 20)
                x = rng.randint(0, width // 2 - w // 2) + (category == 7) * (width // 2 - 10)
                x, y = min(x, width - w), rng.randint(0, height - h)
                pencil.rectangle((x, y, x + w - 1, y + h - 1), fill=COLORS[category])
                annotations.append(
                    {
                        "id": len(annotations),
                        "image_id": 10 + index,
                        "category_id": category,
                        "bbox": [x, y, w, h],
                        "area": w * h,
                        "iscrowd": 0,
                    }
                )
            name = f"{part}_{index}.png"
            path = root / folder.format(part=part) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)
            images.append({"id": 10 + index, "file_name": name, "width": width, "height": height})
        content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
        write_annotations(root, f"{part}{suffix}", content)
    return root


def write_annotations(root: Path, part: str, content: Any) -> None:
    file = root / "annotations" / f"instances_{part}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def read_annotations(root: Path, part: str) -> dict[str, Any]:
    return json.loads((root / "annotations" / f"instances_{part}.json").read_text())
