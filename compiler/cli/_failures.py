"""Why training or testing stopped, as the command line says it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from compiler.cli import USAGE

if TYPE_CHECKING:
    from runtime.training.errors import TrainingError


class CannotGoOnError(click.ClickException):
    """Data, storage or a device is not as it must be."""

    exit_code = USAGE


def failure(error: TrainingError, folder: Path | None = None) -> click.ClickException:
    """What the user reads, with the exit code for it; `folder` is that of the run."""
    from runtime.training.checkpoint import checkpoints
    from runtime.training.errors import DivergedError

    kept = checkpoints(folder / "checkpoint") if folder else []
    note = f"\nlast good checkpoint: {kept[0]}; the same command goes on from it" if kept else ""
    message = f"{error}{note}"
    if isinstance(error, DivergedError):
        return click.ClickException(message)  # a finding: 1
    return CannotGoOnError(message)
