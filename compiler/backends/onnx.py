"""A network as an ONNX model, through torch's dynamo exporter."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor
from torch.export import ExportedProgram

from compiler.backends._base import BACKENDS, EmitError
from compiler.backends._export import AXES, ExportBackend, MissingToolError, Run
from graphspec import NetworkSpec, content_hash

INPUT, OUTPUT = "images", "logits"


@BACKENDS.register
@dataclass(frozen=True)
class Onnx(ExportBackend):
    """One .onnx file, weights inside, the spec's hash among its metadata."""

    name: ClassVar[str] = "onnx"
    file_name: ClassVar[str] = "network.onnx"

    def require_tools(self) -> None:
        missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
        if missing:
            raise MissingToolError(
                f"ONNX needs {' and '.join(missing)}: pip install 'graphc-nn[export]'"
            )

    def write(self, program: ExportedProgram, spec: NetworkSpec, path: Path) -> None:
        from onnxscript.optimizer import fold_constants, remove_unused_nodes

        written = torch.onnx.export(
            program,
            dynamo=True,
            # The exporter's own rewriting takes an hour for a graph with thousands of edges, and
            # onnxruntime does it again; what it needs for that is that constants are folded.
            optimize=False,
            verbose=False,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=(AXES,),
        )
        if written is None:
            raise EmitError("torch.onnx.export gave no program")
        fold_constants(written.model)
        remove_unused_nodes(written.model)
        written.model.metadata_props["graphc.name"] = spec.name
        written.model.metadata_props["graphc.spec_hash"] = content_hash(spec)
        written.save(str(path), external_data=False)

    def runner(self, path: Path) -> Run | None:
        if find_spec("onnxruntime") is None:
            return None
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )

        def run(images: Tensor) -> Tensor:
            (logits,) = session.run([OUTPUT], {INPUT: images.numpy()})
            return torch.from_numpy(logits)

        return run
