"""What a pass is. Passes live beside this file, one each; this file knows none of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from graphspec import NetworkGraph, Registry, Report


@dataclass(frozen=True)
class Pass(ABC):
    """Rewrites a graph. Its dataclass fields are its options.

    A pass is pure: it returns a new graph, or the same object when there is nothing to do.
    It imports no torch, so that `graphc check` runs it.
    """

    name: ClassVar[str]

    @abstractmethod
    def run(self, graph: NetworkGraph, report: Report) -> NetworkGraph:
        """Returns the rewritten graph; what is wrong with the spec goes into `report`."""


PASSES: Registry[type[Pass]] = Registry("pass", key=lambda cls: cls.name)
