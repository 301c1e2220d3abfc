"""How a training run is shown: a bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from compiler.cli._output import figures_text

LINE_SECONDS = 10.0
"""Without a terminal: the least time between two lines."""


class TrainingProgress:
    """An observer of the engine that writes to stderr; a context manager."""

    def __init__(self, epochs: int, *, is_silent: bool = False) -> None:
        self._console = Console(stderr=True, quiet=is_silent, highlight=False, soft_wrap=True)
        self._epochs = epochs
        self._steps_per_epoch = 1
        self._loss: float | None = None
        self._said_at = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("step {task.completed}/{task.total}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("", total=None)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        """One line, above the bar if there is one."""
        self._console.print(text, markup=False)

    def on_resume(self, step: int, damaged: list[Path]) -> None:
        """Says where the run goes on, and what was passed over."""
        for path in damaged:
            self.say(f"warning: {path} is damaged and was passed over")
        self.say(f"going on from step {step}")

    def on_start(self, step: int, total_steps: int, steps_per_epoch: int) -> None:
        """Sets the length of the bar."""
        self._steps_per_epoch = steps_per_epoch
        self._bar.update(self._task, total=total_steps, completed=step)

    def on_step(self, step: int, loss: float) -> None:
        """Moves the bar."""
        self._loss = loss if self._loss is None else 0.95 * self._loss + 0.05 * loss
        epoch = (step - 1) // self._steps_per_epoch + 1
        text = f"epoch {epoch}/{self._epochs}  loss {self._loss:.3f}"
        self._bar.update(self._task, completed=step, description=text)

    def on_epoch(self, record: dict[str, float], history: list[dict[str, float]]) -> None:
        """Says the metrics: of every epoch on a terminal, at intervals elsewhere."""
        is_last = record["epoch"] == self._epochs
        is_due = time.monotonic() - self._said_at >= LINE_SECONDS
        if self._console.is_terminal or is_last or is_due or len(history) == 1:
            self._said_at = time.monotonic()
            self.say(
                f"epoch {int(record['epoch']):3d}/{self._epochs}  "
                f"loss {record['train_loss']:.3f}  {_tested(record)}  {record['seconds']:.0f} s"
            )


def _tested(record: dict[str, float]) -> str:
    if "AP" in record:
        return figures_text(record)
    accuracy = {"accuracy": record["test_accuracy"]}
    return f"test loss {record['test_loss']:.3f}  {figures_text(accuracy)}"
