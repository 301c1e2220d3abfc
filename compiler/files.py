"""Outputs that are there completely or not at all."""

from __future__ import annotations

import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

RESOLVED_SPEC = "spec.resolved.yaml"
"""In every folder of a network: its spec with draws replaced by edges, and all defaults."""


@contextmanager
def replacing(path: Path) -> Generator[Path]:
    """A temporary path beside `path` to write a file or make a folder at.

    It takes the place of `path` when the block ends, and vanishes when the block raises. A
    folder may replace a folder; whether it should is for the caller to decide.
    """
    path = Path(path).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
        temporary = Path(scratch) / path.name
        yield temporary
        if temporary.is_dir() and path.is_dir():
            path.rename(Path(scratch) / "replaced")
        temporary.replace(path)


@contextmanager
def adding_to(folder: Path) -> Generator[Path]:
    """A temporary folder whose files go into `folder` when the block ends, and never in part.

    What else lies in `folder` stays. Nothing goes when the block raises.
    """
    folder = Path(folder).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".new.") as scratch:
        yield Path(scratch)
        for path in Path(scratch).iterdir():
            path.replace(folder / path.name)
