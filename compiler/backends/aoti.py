"""A network as machine code for this kind of machine, made by AOTInductor."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch.export import ExportedProgram

from compiler.backends._base import BACKENDS
from compiler.backends._export import ExportBackend, MissingToolError, Run
from graphspec import NetworkSpec


@BACKENDS.register
@dataclass(frozen=True)
class Aoti(ExportBackend):
    """A .pt2 package for `torch._inductor.aoti_load_package`, or for C++."""

    name: ClassVar[str] = "aoti"
    file_name: ClassVar[str] = "network.aoti.pt2"

    def require_tools(self) -> None:
        from torch._inductor.cpp_builder import get_cpp_compiler
        from torch._inductor.exc import InvalidCxxCompiler

        try:
            get_cpp_compiler()
        except (InvalidCxxCompiler, RuntimeError) as error:
            raise MissingToolError(
                "AOTInductor needs a C++ compiler: install g++ or clang++, or name one in CXX"
            ) from error

    def write(self, program: ExportedProgram, spec: NetworkSpec, path: Path) -> None:
        from torch._inductor import aoti_compile_and_package

        # The package's name must end so, whatever the file's.
        package = path.with_name("package.pt2")
        aoti_compile_and_package(program, package_path=str(package))
        package.replace(path)

    def runner(self, path: Path) -> Run:
        from torch._inductor import aoti_load_package

        return aoti_load_package(str(path))
