"""What exports share: one capture of the program, and a look whether the file computes the same."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor, fx
from torch.export import Dim, ExportedProgram

from compiler.backends._base import Backend, EmitError
from compiler.files import replacing
from graphspec import NetworkGraph, NetworkSpec
from runtime.gating import Rule, set_inference
from runtime.sparse import SparseStage

TOLERANCE = 1e-4
"""Of an export's logits against eager's, relative to the largest logit where that is above 1."""
TRACED_BATCH = 2
"""A batch of 1 would be taken for a constant."""
CHECKED_BATCHES = (1, 3)
AXES = {0: "batch", 2: "height", 3: "width"}

Run = Callable[[Tensor], Tensor]


class MissingToolError(EmitError):
    """A library or program that a backend needs is not installed."""


@dataclass(frozen=True)
class Export:
    """A file, and how far its logits were from eager's; None where nothing could run it.

    `dynamic` names the axes of its input that may have any size.
    """

    path: Path
    difference: float | None
    dynamic: tuple[str, ...]


@dataclass(frozen=True)
class ExportBackend(Backend):
    """Writes one file that computes a network's eval mode, for batches of any size.

    `mode` and `rule` are those of `runtime.gating.set_inference`; rule None is the spec's.
    """

    mode: Literal["soft", "masked", "sparse"] = "masked"
    rule: Rule | None = None

    file_name: ClassVar[str]

    def emit(
        self, spec: NetworkSpec, graph: NetworkGraph, model: fx.GraphModule, directory: Path
    ) -> tuple[Path, ...]:
        return (self.export(spec, graph, model, Path(directory) / self.file_name).path,)

    def export(
        self, spec: NetworkSpec, graph: NetworkGraph, model: fx.GraphModule, path: Path
    ) -> Export:
        """Writes `model`, compiled from `graph`, to `path`, if what comes out is right.

        Raises:
            EmitError: when the network cannot be written, or the export computes other logits.
        """
        self.require_tools()
        network = self._frozen(model)
        # Draws of its own, so that nobody's random stream moves on.
        generator = torch.Generator().manual_seed(0)
        images = torch.rand(TRACED_BATCH, *graph.input_shape, generator=generator)
        with torch.no_grad(), replacing(Path(path)) as temporary:
            program = capture(network, images)
            self.write(program, spec, temporary)
            run = self.runner(temporary)
            difference = None if run is None else compare(network, run, graph, generator)
        return Export(Path(path), difference, dynamic_axes(program))

    @abstractmethod
    def require_tools(self) -> None:
        """Looks for what the format needs.

        Raises:
            MissingToolError: with what to install.
        """

    @abstractmethod
    def write(self, program: ExportedProgram, spec: NetworkSpec, path: Path) -> None:
        """Writes a captured program in this form."""

    @abstractmethod
    def runner(self, path: Path) -> Run | None:
        """What computes logits with the file; None where that is not installed."""

    def _frozen(self, model: fx.GraphModule) -> fx.GraphModule:
        """A copy of a network on the CPU, in the mode to write."""
        if self.mode == "sparse" or any(isinstance(m, SparseStage) for m in model.modules()):
            raise EmitError(
                "sparse inference decides image by image what to compute, which a program of "
                "fixed operations cannot say; export `masked`, which gives the same logits, or "
                "let `graphc compile --emit source` write a network that skips"
            )
        network = copy.deepcopy(model).cpu().eval()
        set_inference(network, mode=self.mode, rule=self.rule)
        return network


def capture(network: fx.GraphModule, images: Tensor) -> ExportedProgram:
    """The program of one forward; image sizes stay open where the network allows it.

    Raises:
        EmitError: when torch.export gives up, with its reason.
    """
    sizes = {0: Dim(AXES[0]), 2: Dim.AUTO, 3: Dim.AUTO}
    try:
        return torch.export.export(network, (images,), dynamic_shapes=(sizes,), strict=False)
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise EmitError(f"torch.export cannot capture the network: {reason}") from error


def dynamic_axes(program: ExportedProgram) -> tuple[str, ...]:
    """Names of the axes of a program's input that may have any size."""
    (name,) = program.graph_signature.user_inputs
    (images,) = (node for node in program.graph.find_nodes(op="placeholder") if node.name == name)
    shape = images.meta["val"].shape
    return tuple(name for axis, name in AXES.items() if not isinstance(shape[axis], int))


def compare(
    network: fx.GraphModule, run: Run, graph: NetworkGraph, generator: torch.Generator
) -> float:
    """The largest difference of an export's logits from eager's.

    Raises:
        EmitError: when it is more than rounding.
    """
    worst = 0.0
    for batch in CHECKED_BATCHES:
        images = torch.rand(batch, *graph.input_shape, generator=generator)
        expected = network(images)
        difference = (run(images) - expected).abs().max().item()
        if not difference <= TOLERANCE * max(1.0, expected.abs().max().item()):
            raise EmitError(
                f"the export's logits differ from eager's by {difference:.1e} on a batch of "
                f"{batch}, which is more than rounding; nothing was written"
            )
        worst = max(worst, difference)
    return worst
