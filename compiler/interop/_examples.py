"""The example specs, by the names that they get in a library's registry."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from compiler.paper import example


def examples(is_taken: Callable[[str], bool]) -> Iterator[tuple[str, Path]]:
    """Names and files; an example whose name the library has itself is `graphc_<name>`."""
    for file in sorted(example("dgnet_tiny").parent.glob("*.yaml")):
        yield (f"graphc_{file.stem}" if is_taken(file.stem) else file.stem), file
