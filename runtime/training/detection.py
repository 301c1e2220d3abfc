"""Detection as a task: the losses of a detector of torchvision, and COCO's average precision."""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from runtime.training.batches import TrainingBatches
from runtime.training.coco import DetectionBatch, Part
from runtime.training.errors import DataError
from runtime.training.processes import Processes
from runtime.training.task import Task

FIGURES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
"""COCO's: over IoU 0.5 to 0.95, at 0.5, at 0.75, and by area (32^2, 96^2); -1 is no such box."""


class Detection(Task[DetectionBatch]):
    """The sum of a detector's losses, and its average precision on `part`.

    Raises: DataError if pycocotools is not installed.
    """

    def __init__(
        self,
        batches: TrainingBatches[DetectionBatch],
        test_batches: Callable[[], Iterable[DetectionBatch]],
        part: Part,
    ) -> None:
        if importlib.util.find_spec("pycocotools") is None:
            raise DataError(
                "average precision is pycocotools' to compute, which is not installed; "
                "pip install 'graphc-nn[detection]'"
            )
        self.batches, self.test_batches, self.part = batches, test_batches, part

    def losses(self, forward: Callable[..., Any], batch: DetectionBatch) -> dict[str, Tensor]:
        return {name: loss.float() for name, loss in forward(*batch).items()}

    def evaluate(self, model: nn.Module, processes: Processes) -> dict[str, float]:
        return self.figures(self.detect(model, processes))

    def figures(self, found: list[dict[str, Any]]) -> dict[str, float]:
        """COCO's six figures of what was found."""
        return average_precision(self.part.truth, found)

    def by_class(self, found: list[dict[str, Any]]) -> dict[str, float]:
        """AP of each class alone."""
        names = zip(self.part.classes, self.part.category_ids, strict=True)
        return {
            name: average_precision(self.part.truth, found, category_id)["AP"]
            for name, category_id in names
        }

    def detect(self, model: nn.Module, processes: Processes) -> list[dict[str, Any]]:
        """What the model finds in the test images of all processes, as COCO writes it."""
        was_training = model.training
        model.eval()
        found: list[dict[str, Any]] = []
        with torch.inference_mode():
            for images, targets in self.test_batches():
                for target, result in zip(targets, model(images), strict=True):
                    found += as_coco(target["image_id"], result, self.part.category_ids)
        model.train(was_training)
        return [detection for part in processes.gather(found) for detection in part]


def as_coco(
    image_id: int, result: dict[str, Tensor], category_ids: tuple[int, ...]
) -> list[dict[str, Any]]:
    """A detector's result for one image, best first."""
    boxes = result["boxes"].cpu().double()
    boxes[:, 2:] -= boxes[:, :2]
    labels, scores = result["labels"].tolist(), result["scores"].tolist()
    return [
        {"image_id": image_id, "category_id": category_ids[label - 1], "bbox": box, "score": score}
        for box, label, score in zip(boxes.tolist(), labels, scores, strict=True)
    ]


def average_precision(
    truth: dict[str, Any], detections: list[dict[str, Any]], category_id: int | None = None
) -> dict[str, float]:
    """COCO's six figures, over all categories or of one."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    if not detections:  # which pycocotools does not take
        return dict.fromkeys(FIGURES, 0.0)
    with contextlib.redirect_stdout(io.StringIO()):
        coco: Any = COCO()  # its stubs know files only
        coco.dataset = truth
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(detections), "bbox")
        if category_id is not None:
            evaluation.params.catIds = [category_id]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {name: float(v) for name, v in zip(FIGURES, evaluation.stats[:6], strict=True)}
