"""What differs between tasks, and the one that most networks are trained for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, Generic

import torch
from torch import Tensor, nn

from runtime.training.batches import B, Batch, TrainingBatches
from runtime.training.evaluation import evaluate
from runtime.training.processes import Processes

TestBatches = Callable[[], Iterable[Batch]]
"""Gives the test set of this process anew."""


class Task(ABC, Generic[B]):
    """What the engine asks of a task: batches, the loss of one, how good the network is."""

    batches: TrainingBatches[B]

    @abstractmethod
    def losses(self, forward: Callable[..., Any], batch: B) -> dict[str, Tensor]:
        """The terms of the loss by name; their sum is what training makes small."""

    def channels_last(self, batch: B) -> B:
        """The batch in NHWC layout, if that is the task's to arrange."""
        return batch

    @abstractmethod
    def evaluate(self, model: nn.Module, processes: Processes) -> dict[str, float]:
        """The figures of a network on the test data of all processes, for the metrics."""


class Classification(Task[Batch]):
    """Cross-entropy, smoothed in training, and the share of images that are told right."""

    def __init__(
        self,
        batches: TrainingBatches[Batch],
        test_batches: TestBatches,
        label_smoothing: float = 0.0,
    ) -> None:
        self.batches, self.test_batches = batches, test_batches
        self._criterion = nn.CrossEntropyLoss(label_smoothing=label_smoothing)

    def losses(self, forward: Callable[..., Any], batch: Batch) -> dict[str, Tensor]:
        images, labels = batch
        return {"loss": self._criterion(forward(images).float(), labels)}

    def channels_last(self, batch: Batch) -> Batch:
        images, labels = batch
        return images.contiguous(memory_format=torch.channels_last), labels

    def evaluate(self, model: nn.Module, processes: Processes) -> dict[str, float]:
        found = evaluate(model, self.test_batches(), processes)
        return {"test_loss": found["loss"], "test_accuracy": found["accuracy"]}
