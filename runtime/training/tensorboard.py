"""Metrics for TensorBoard, beside those that any program reads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from runtime.training.errors import StorageError, TrainingError

if TYPE_CHECKING:
    from runtime.training.engine import Observer, Record


class TensorBoard:
    """An observer that writes each epoch's metrics at its step, and tells another observer.

    Every attempt at a run has an event file of its own, which says where it begins: readers
    drop what an earlier attempt wrote beyond that, so that no step counts twice.

    Raises: TrainingError if tensorboard is not installed.
    """

    def __init__(self, observer: Observer, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ModuleNotFoundError as error:
            raise TrainingError(
                "tensorboard is not installed: pip install 'graphc-nn[tensorboard]'"
            ) from error
        self._observer, self._folder, self._open = observer, folder, SummaryWriter

    def say(self, text: str) -> None:
        self._observer.say(text)

    def on_resume(self, step: int, damaged: list[Path]) -> None:
        self._observer.on_resume(step, damaged)

    def on_start(self, step: int, total_steps: int, steps_per_epoch: int) -> None:
        self._writer = self._open(str(self._folder), purge_step=step + 1)
        self._observer.on_start(step, total_steps, steps_per_epoch)

    def on_step(self, step: int, loss: float) -> None:
        self._observer.on_step(step, loss)

    def on_epoch(self, record: Record, history: list[Record]) -> None:
        try:
            for name in record.keys() - {"step"}:
                self._writer.add_scalar(name, record[name], int(record["step"]))
            self._writer.flush()
        except OSError as error:
            raise StorageError(f"cannot write {self._folder}: {error.strerror or error}") from error
        self._observer.on_epoch(record, history)
