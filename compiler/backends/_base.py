"""What a backend is. Backends live beside this file, one each; this file knows none of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import fx

from graphspec import NetworkGraph, NetworkSpec, Registry


class EmitError(Exception):
    """A network that a backend cannot write, with the reason and what to do."""


@dataclass(frozen=True)
class Backend(ABC):
    """Writes a compiled network in another form. Its dataclass fields are its options."""

    name: ClassVar[str]

    @abstractmethod
    def emit(
        self, spec: NetworkSpec, graph: NetworkGraph, model: fx.GraphModule, directory: Path
    ) -> tuple[Path, ...]:
        """Writes `model`, compiled from `graph`, into `directory`; returns the files written.

        Raises:
            EmitError: when the network has no such form.
        """


BACKENDS: Registry[type[Backend]] = Registry("backend", key=lambda cls: cls.name)
