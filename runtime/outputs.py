"""What a network can hand out besides its logits: adjacency matrices and features by stage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import getitem
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from runtime.aggregate import LearnedSum, Sum
from runtime.gating import Gate, gates


class Wiring(NamedTuple):
    """What a stage's program no longer says: its nodes' names in order, and who feeds whom.

    `rows` holds (node, its sources, its aggregation's name or "") of every node that gathers.
    """

    nodes: tuple[str, ...]
    rows: tuple[tuple[int, tuple[int, ...], str], ...]


class StaticAdjacency(nn.Module):
    """The adjacency matrix of a stage without routed edges, equal for all samples.

    Reads the weights of the stage's aggregations and owns none.
    Shape: (B, C, H, W) -> (1, N, N)
    """

    def __init__(
        self, rows: Sequence[tuple[int, tuple[int, ...], nn.Module | None]], size: int
    ) -> None:
        super().__init__()
        # In a tuple, so that the aggregations do not count as children here as well.
        self._rows = tuple((target, sources, (module,)) for target, sources, module in rows)
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        adjacency = x.new_zeros(self.size, self.size)
        for target, sources, (module,) in self._rows:
            row = module.row() if isinstance(module, Sum | LearnedSum) else torch.ones(())
            adjacency[target, list(sources)] = row.to(adjacency)
        return adjacency.unsqueeze(0)


class PadOutput(nn.Module):
    """Completes a routed stage's matrix by the output node's column, which is empty.

    Shape: (B, N, N - 1) -> (B, N, N)
    """

    def forward(self, adjacency: Tensor) -> Tensor:
        return F.pad(adjacency, (0, 1))


def wiring(stage: fx.GraphModule) -> Wiring:
    """The nodes of a stage of a compiled network, in the order of its adjacency matrix."""
    found = stage.get_submodule("aggregate.output").wiring
    assert isinstance(found, Wiring)
    return found


def stages(model: nn.Module) -> Iterator[tuple[str, fx.GraphModule]]:
    """The stages of a compiled network by name, in order."""
    for name, child in model.named_children():
        if isinstance(child, fx.GraphModule):
            yield name, child


def with_outputs(
    model: fx.GraphModule, *, adjacency: bool = True, features: Sequence[str] = ()
) -> fx.GraphModule:
    """A network that shares every parameter and buffer with `model` and returns more.

    It returns `(logits, adjacency, features)`: logits (B, num_classes); a dict from stage to
    M (B, N, N), or (1, N, N) where no edge is routed; a dict from each name in `features`
    (stages, or "stem") to its (B, C, H, W). M's rows and columns are in order of
    `wiring(stage).nodes`. Gates are shared too, and with them the inference mode.

    Raises:
        ValueError: when `features` names something that the network does not have, or when it is
            sparse: its stages keep no matrix of all samples.
    """
    for name, child in model.named_children():
        if not isinstance(child, fx.GraphModule) and any(gates(child)):
            raise ValueError(
                f"{name!r} is sparse; take outputs from the network that it was made of"
            )
    program, copied = fx.Graph(), {}
    logits = program.graph_copy(model.graph, copied)
    values = {str(old.target): new for old, new in copied.items() if old.op == "call_module"}
    for name in features:
        if name not in values or name == "head":
            known = ", ".join(name for name in values if name != "head")
            raise ValueError(f"no stage {name!r} to take features from (known: {known})")
    root = nn.Module()
    for name, child in model.named_children():
        root.add_module(name, child)
    matrices: dict[str, fx.Node] = {}
    for name, stage in stages(model) if adjacency else ():
        root.add_module(name, _with_adjacency(stage))
        both = values[name]
        with program.inserting_after(both):
            matrices[name] = program.call_function(getitem, (both, 1))
            values[name] = program.call_function(getitem, (both, 0))
        both.replace_all_uses_with(
            values[name], delete_user_cb=lambda user: user.target is not getitem
        )
    program.output((logits, matrices, {name: values[name] for name in features}))
    program.lint()
    return fx.GraphModule(root, program, class_name=type(model).__name__)


def _with_adjacency(stage: fx.GraphModule) -> fx.GraphModule:
    """The stage that returns `(features, adjacency)`, sharing all modules."""
    program, copied = fx.Graph(), {}
    features = program.graph_copy(stage.graph, copied)
    root = nn.Module()
    for name, child in stage.named_children():
        root.add_module(name, child)
    for name, parameter in stage.named_parameters(recurse=False):
        root.register_parameter(name, parameter)
    for name, buffer in stage.named_buffers(recurse=False):
        root.register_buffer(name, buffer)
    calls = [node for node in stage.graph.nodes if node.op == "call_module"]
    found = [node for node in calls if isinstance(stage.get_submodule(node.target), Gate)]
    if found:
        root.add_module("adjacency", PadOutput())
        argument = copied[found[-1]]
    else:
        root.add_module("adjacency", _static_adjacency(stage))
        argument = next(iter(copied.values()))
    adjacency = program.call_module("adjacency", (argument,))
    program.output((features, adjacency))
    return fx.GraphModule(root, program, class_name=type(stage).__name__)


def _static_adjacency(stage: fx.GraphModule) -> StaticAdjacency:
    nodes, rows = wiring(stage)
    modules = [
        (target, sources, stage.get_submodule(name) if name else None)
        for target, sources, name in rows
    ]
    return StaticAdjacency(modules, len(nodes))
