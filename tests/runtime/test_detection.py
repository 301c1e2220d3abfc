"""COCO's files as data, and average precision."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from runtime.training.batches import Share
from runtime.training.coco import CocoDataset
from runtime.training.detection import FIGURES, Detection, average_precision
from runtime.training.errors import DataError
from runtime.training.recipe import Recipe
from tests.coco import COLORS, read_annotations, write_annotations, write_coco

CPU = torch.device("cpu")
RECIPE = Recipe(epochs=1, batch_size=4, lr=0.1, horizontal_flip=True)


@pytest.mark.parametrize(
    ("folder", "suffix"),
    [("images", ""), ("{part}", ""), ("{part}2017", "2017"), ("images/{part}2017", "2017")],
)
def test_layouts(tmp_path: Path, folder: str, suffix: str) -> None:
    data = CocoDataset(write_coco(tmp_path, folder=folder, suffix=suffix), 3)

    assert (len(data.train.images), len(data.test.images)) == (8, 4)
    assert data.classes == ("red", "blue")
    assert data.train.images[0].labels.tolist() == [1, 2]


def test_batches_hold_images_of_their_own_sizes(tmp_path: Path) -> None:
    data = CocoDataset(write_coco(tmp_path), 3)
    ((images, targets),) = next(data.training(RECIPE, Share(4), 0, CPU, 0).epoch(0))

    assert len({image.shape for image in images}) > 1
    assert all(float(image.min()) >= 0 and float(image.max()) <= 1 for image in images)
    assert [set(target) for target in targets] == [{"boxes", "labels", "image_id"}] * 4


def test_boxes_are_flipped_with_their_images(tmp_path: Path) -> None:
    data = CocoDataset(write_coco(tmp_path), 3)
    plain = {image.id: image.boxes for image in data.train.images}
    flipped = 0
    for epoch in (0, 1):
        for ((images, targets),) in data.training(RECIPE, Share(4), 0, CPU, 0).epoch(epoch):
            for image, target in zip(images, targets, strict=True):
                flipped += not torch.equal(target["boxes"], plain[target["image_id"]])
                # Where a blue rectangle lies over a red one, its centre is blue all the same.
                x1, y1, x2, y2 = target["boxes"][target["labels"].tolist().index(2)].long()
                centre = image[:, (y1 + y2) // 2, (x1 + x2) // 2]
                assert (centre * 255).round().int().tolist() == list(COLORS[7])
    assert 0 < flipped < 16


def test_augmentation_depends_on_epoch_and_sample_alone(tmp_path: Path) -> None:
    data = CocoDataset(write_coco(tmp_path), 3)

    def boxes(accumulate: int, start: int) -> list[torch.Tensor]:
        batches = data.training(RECIPE, Share(4, accumulate=accumulate), 0, CPU, 0)
        steps = list(batches.epoch(1, start))
        return [t["boxes"] for micro in steps for _, targets in micro for t in targets]

    whole, halves = boxes(1, 0), boxes(2, 1)
    assert all(torch.equal(a, b) for a, b in zip(whole[4:], halves, strict=True))


def test_what_trains_and_what_is_only_tested(tmp_path: Path) -> None:
    write_coco(tmp_path)
    content = read_annotations(tmp_path, "train")
    first, second, third, fourth, *_ = content["annotations"]
    first["iscrowd"] = 1
    second["bbox"][2] = 0
    content["annotations"] = [first, second, third, fourth]
    write_annotations(tmp_path, "train", content)
    data = CocoDataset(tmp_path, 3)

    assert [len(image.boxes) for image in data.train.images] == [0, 2] + [0] * 6
    assert data.notes == ["1 training boxes without an area were left out"]
    assert len(data.train.truth["annotations"]) == 4
    ((_, targets),) = next(data.training(RECIPE, Share(8), 0, CPU, 0).epoch(0))
    assert {tuple(target["boxes"].shape) for target in targets} == {(0, 4), (2, 4)}


def test_grey_images(tmp_path: Path) -> None:
    data = CocoDataset(write_coco(tmp_path), 1)
    images, _ = next(data.testing(1, CPU, 0))
    assert images[0].shape == (1, 64, 64)
    with pytest.raises(DataError, match="1 or 3 channels, not 2"):
        CocoDataset(tmp_path, 2)


def change(key: str, index: int, **entries: Any) -> Callable[[dict[str, Any]], None]:
    def apply(content: dict[str, Any]) -> None:
        content[key][index].update(entries)

    return apply


def remove(key: str, index: int, name: str) -> Callable[[dict[str, Any]], None]:
    def apply(content: dict[str, Any]) -> None:
        del content[key][index][name]

    return apply


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: c.pop("images"), "has no list 'images'; it is not COCO's format"),
        (lambda c: c["images"].clear(), "the list 'images' is empty"),
        (lambda c: c["annotations"].clear(), "no training image has a box"),
        (lambda c: c["categories"].pop(), "has the category_id 2, which is not listed"),
        (remove("images", 2, "file_name"), r"images\[2\] has no 'file_name'"),
        (remove("annotations", 1, "bbox"), r"annotations\[1\] has no 'bbox'"),
        (change("images", 1, id=10), "images have the id 10 twice"),
        (change("images", 1, id="a"), "images have the id 'a' which is no whole number"),
        (change("images", 1, file_name=3), r"images\[1\] has the file_name 3, which is no text"),
        (change("images", 1, file_name="no.png"), "lists 1 images that are not in .*no.png"),
        (change("images", 0, file_name="no.png"), "lists no.png, which is in none of"),
        (change("annotations", 3, image_id=99), r"annotations\[3\] has the image_id 99, which"),
        (change("annotations", 0, bbox=[1, 2, 3]), r"bbox \[1, 2, 3\], not \[x, y, width"),
        (change("annotations", 0, bbox=[1, 2, 3, "4"]), "not .x, y, width, height"),
        (change("annotations", 0, bbox=[1, 2, 3, float("nan")]), "not .x, y, width, height"),
        (change("categories", 0, name="green"), "train has the categories 2 red, 7 green, val"),
    ],
)
def test_files_that_say_what_cannot_be(
    tmp_path: Path, damage: Callable[[dict[str, Any]], object], message: str
) -> None:
    write_coco(tmp_path, train=4)
    content = read_annotations(tmp_path, "train")
    damage(content)
    write_annotations(tmp_path, "train", content)

    with pytest.raises(DataError, match=message):
        CocoDataset(tmp_path, 3)


def test_files_that_are_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is no folder; detection trains on a folder with"):
        CocoDataset(tmp_path / "none", 3)
    with pytest.raises(DataError, match=r"instances_train2017.json \(found: no annotations"):
        CocoDataset(tmp_path, 3)
    write_coco(tmp_path)
    with pytest.raises(DataError, match=r"instances_test.json .*found: instances_train.json, "):
        CocoDataset(tmp_path, 3, "test")
    (tmp_path / "annotations" / "instances_val.json").write_text("{")
    with pytest.raises(DataError, match=r"cannot read .*instances_val.json"):
        CocoDataset(tmp_path, 3)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: (root / "images/train_1.png").write_bytes(b"no"), "train_1.png"),
        (
            lambda root: (root / "images/train_1.png").write_bytes(
                (root / "images/train_0.png").read_bytes()
            ),
            "it has 64x64 pixels, its annotation says 64x48",
        ),
    ],
)
def test_images_that_cannot_be_used(
    tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    data = CocoDataset(write_coco(tmp_path), 3)
    damage(tmp_path)
    with pytest.raises(DataError, match=f"unreadable sample .*{message}"):
        list(data.training(RECIPE, Share(4), 0, CPU, 0).epoch(0))


def found(image_id: int, category_id: int, box: list[float], score: float) -> dict[str, Any]:
    return {"image_id": image_id, "category_id": category_id, "bbox": box, "score": score}


def truth_of(root: Path) -> dict[str, Any]:
    return CocoDataset(root, 3).test.truth


def test_average_precision_of_known_cases(tmp_path: Path) -> None:
    write_coco(tmp_path, val=2)
    truth = truth_of(tmp_path)
    boxes = [(a["image_id"], a["category_id"], a["bbox"]) for a in truth["annotations"]]
    perfect = [found(*box, 0.9) for box in boxes]
    # 77 % of a box overlap with it to 0.77: right for 6 of COCO's 10 thresholds.
    narrow = [found(i, c, [x, y, 0.77 * w, h], 0.9) for i, c, (x, y, w, h) in boxes]
    red = [detection for detection in perfect if detection["category_id"] == 2]

    assert average_precision(truth, perfect)["AP"] == pytest.approx(1)
    assert average_precision(truth, narrow)["AP"] == pytest.approx(0.6)
    assert average_precision(truth, narrow)["AP75"] == pytest.approx(1)
    assert average_precision(truth, red)["AP"] == pytest.approx(0.5)
    assert average_precision(truth, perfect)["AP_large"] == -1
    assert average_precision(truth, []) == dict.fromkeys(FIGURES, 0.0)


def test_average_precision_is_that_of_pycocotools_on_the_files(tmp_path: Path) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    write_coco(tmp_path, val=6)
    content = read_annotations(tmp_path, "val")
    for index, annotation in enumerate(content["annotations"]):
        annotation["id"] = index + 1  # pycocotools takes an id 0 for "not found"
    content["annotations"][3]["iscrowd"] = 1
    write_annotations(tmp_path, "val", content)
    generator = torch.Generator().manual_seed(0)
    detections = [
        found(
            a["image_id"],
            a["category_id"],
            [v + 3 * float(torch.randn((), generator=generator)) for v in a["bbox"]],
            float(torch.rand((), generator=generator)),
        )
        for a in content["annotations"] * 3
    ]
    results = tmp_path / "results.json"
    results.write_text(json.dumps(detections))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(tmp_path / "annotations" / "instances_val.json"))
        evaluation = COCOeval(coco, coco.loadRes(str(results)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()

    ours = average_precision(truth_of(tmp_path), detections)
    assert list(ours.values()) == evaluation.stats[:6].tolist()
    assert 0.05 < ours["AP"] < 0.95


def test_average_precision_by_class(tmp_path: Path) -> None:
    data = CocoDataset(write_coco(tmp_path), 3)
    task = Detection(data.training(RECIPE, Share(4), 0, CPU, 0), list, data.test)
    red = [
        found(a["image_id"], 2, a["bbox"], 1.0)
        for a in data.test.truth["annotations"]
        if a["category_id"] == 2
    ]
    assert task.by_class(red) == {"red": pytest.approx(1), "blue": 0}


def test_a_missing_pycocotools_is_said_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = CocoDataset(write_coco(tmp_path), 3)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"pip install 'graphc-nn\[detection\]'"):
        Detection(data.training(RECIPE, Share(4), 0, CPU, 0), list, data.test)
