"""A network as a `torch.export` program: torch runs it, without graphc."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch.export import ExportedProgram

from compiler.backends._base import BACKENDS
from compiler.backends._export import ExportBackend, Run
from compiler.files import RESOLVED_SPEC
from graphspec import NetworkSpec, dump, resolve


@BACKENDS.register
@dataclass(frozen=True)
class Exported(ExportBackend):
    """A .pt2 file for `torch.export.load`, with the resolved spec as an extra file."""

    name: ClassVar[str] = "exported"
    file_name: ClassVar[str] = "network.pt2"

    def require_tools(self) -> None:
        pass  # torch is there

    def write(self, program: ExportedProgram, spec: NetworkSpec, path: Path) -> None:
        with path.open("wb") as file:
            torch.export.save(program, file, extra_files={RESOLVED_SPEC: dump(resolve(spec))})

    def runner(self, path: Path) -> Run:
        with path.open("rb") as file:
            return torch.export.load(file).module()
