"""Checkpoints that are whole or absent: written beside, synced, renamed; verified when read."""

from __future__ import annotations

import errno
import io
import json
import os
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor

from runtime.training.errors import StorageError

KEPT = 2


def write_atomically(path: Path, content: bytes) -> None:
    """Replaces a file in one step: a crash leaves the old content or the new, never a part.

    Raises: StorageError, with the old file untouched, if the disk is full or read-only.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = "the disk is full" if full else (error.strerror or str(error))
        raise StorageError(f"cannot write {path} ({len(content):,} bytes): {reason}") from error


def _sync_folder(folder: Path) -> None:
    """Makes a rename in the folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def save_checkpoint(folder: Path, step: int, state: Mapping[str, Any]) -> Path:
    """Writes `state` as the checkpoint of `step` and drops all but the newest ones.

    What processes that were killed while writing have left goes too: a run has one writer.
    """
    for stale in folder.glob(".step-*.tmp"):
        stale.unlink(missing_ok=True)
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    path = folder / f"step-{step:09d}.pt"
    write_atomically(path, buffer.getvalue())
    for old in checkpoints(folder)[KEPT:]:
        old.unlink(missing_ok=True)
    return path


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoint files of a run, newest first; a half-written one never has such a name."""
    return sorted(folder.glob("step-*.pt"), reverse=True)


def load_checkpoint(folder: Path) -> tuple[dict[str, Any] | None, list[Path]]:
    """The newest whole checkpoint, or None; and the damaged files that were passed over.

    torch.save writes a zip archive with a CRC-32 of every record, so truncation and flipped
    bits both show before anything is loaded.
    """
    damaged: list[Path] = []
    for path in checkpoints(folder):
        try:
            with zipfile.ZipFile(path) as archive:
                if archive.testzip() is not None:
                    raise zipfile.BadZipFile
            return torch.load(path, map_location="cpu", weights_only=True), damaged
        except (zipfile.BadZipFile, RuntimeError, EOFError):
            damaged.append(path)
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
    return None, damaged


def save_weights(path: Path, weights: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes weights as safetensors, readable without this package."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    write_atomically(path, to_safetensors(tensors, dict(metadata)))


def write_metrics(folder: Path, history: list[dict[str, float]]) -> None:
    """`metrics.jsonl` and `metrics.csv`: one line an epoch, the same columns in both."""
    lines = "".join(json.dumps(record) + "\n" for record in history)
    write_atomically(folder / "metrics.jsonl", lines.encode())
    columns = list(history[0]) if history else []
    rows = [columns, *([str(record[name]) for name in columns] for record in history)]
    write_atomically(folder / "metrics.csv", "".join(",".join(r) + "\n" for r in rows).encode())
