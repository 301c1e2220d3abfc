"""A network as one readable Python file that needs torch alone.

The classes of its blocks, routers, gates and sums are copied from the runtime's own files; the
wiring is written from the lowered fx graphs, one line a node.
"""

from __future__ import annotations

import keyword
import re
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import ClassVar

import torch
from jinja2 import Environment, StrictUndefined
from safetensors.torch import save_file
from torch import fx

from compiler.backends._base import BACKENDS, Backend, EmitError
from compiler.backends._excerpt import Excerpt
from compiler.backends._layout import WIDTH, lay_out, literal
from compiler.backends._program import drop_copies, network_class, stage_class
from compiler.construction import construction_of
from compiler.files import replacing
from compiler.lower import lower
from graphspec import CATALOGUE, NetworkGraph, NetworkSpec, content_hash
from runtime.gating import Gate, gates, set_inference
from runtime.outputs import Wiring
from runtime.sparse import SparseStage
from runtime.weighted_sum import Tap

SOURCE_FILE = "network.py"
WEIGHTS_FILE = "weights.safetensors"
_TEMPLATE = Path(__file__).with_name("network.py.jinja")
_NAME = re.compile(r"[a-z][a-z0-9_]*", re.ASCII)


@BACKENDS.register
@dataclass(frozen=True)
class Source(Backend):
    """`network.py` with the classes, `weights.safetensors` with the weights."""

    name: ClassVar[str] = "source"

    def emit(
        self, spec: NetworkSpec, graph: NetworkGraph, model: fx.GraphModule, directory: Path
    ) -> tuple[Path, ...]:
        with torch.device("meta"):
            program = lower(graph)
        text = render(graph, program, content_hash(spec))
        weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
        expected = {name: tensor.shape for name, tensor in program.state_dict().items()}
        if {name: tensor.shape for name, tensor in weights.items()} != expected:
            raise EmitError(
                "the module was rewritten after it was compiled, so that its weights no longer "
                "belong to the spec's network; emit the module that `compile` returned"
            )
        paths = (Path(directory) / SOURCE_FILE, Path(directory) / WEIGHTS_FILE)
        with replacing(paths[0]) as source, replacing(paths[1]) as tensors:
            source.write_text(text, encoding="utf-8", newline="\n")
            save_file(weights, tensors)
        return paths


def render(graph: NetworkGraph, program: fx.GraphModule, spec_hash: str) -> str:
    """The text of the file for `program`, which `lower(graph)` has just made.

    Raises:
        EmitError: when a block needs more than torch.
    """
    check_names(graph)
    refuse_foreign(graph)
    excerpt = Excerpt(taken={"WEIGHTS", "load", "use_sparse"})
    stages = {stage.name: program.get_submodule(stage.name) for stage in graph.stages}
    # Copies come first: they keep their names, and the stages are named around them.
    for module in (program, *stages.values()):
        assert isinstance(module, fx.GraphModule)
        drop_copies(module)
        copy_classes(module, excerpt)
    excerpt.mark()
    routed = [name for name, stage in stages.items() if any(gates(stage))]
    sparse: list[dict[str, str | list[str]]] = []
    if routed:
        excerpt.use("typing", "Any")
        names = {"stage": excerpt.add(SparseStage), "wiring": excerpt.add(Wiring)}
        loop = lay_out(literal(tuple(routed)), indent=1, prefix="for name in ", suffix=":")
        sparse.append({"loop": loop, **names})
    excerpt.use("pathlib", "Path")
    excerpt.use("torch", "Tensor")
    excerpt.use("torch", "nn")
    stage_names = {
        stage.name: excerpt.claim(class_name(stage.name), "Stage") for stage in graph.stages
    }
    network = excerpt.claim(class_name(graph.name), "Network")
    classes = [
        stage_class(stage_names[stage.name], stage, stages[stage.name], excerpt)
        for stage in graph.stages
    ]
    classes.append(network_class(network, graph, program, stage_names, excerpt))
    has_taps = any(isinstance(module, Tap) for module in program.modules())
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        docstring=docstring(graph, network, spec_hash, has_taps=has_taps),
        imports=excerpt.imports(),
        definitions=excerpt.definitions(),
        classes=classes,
        sparse=sparse,
        sparse_definitions=excerpt.definitions(after_mark=True),
        network=network,
        weights=WEIGHTS_FILE,
    )


def check_names(graph: NetworkGraph) -> None:
    """Refuses names that are not plain; specs cannot have them, graphs made in Python could.

    Raises:
        EmitError: naming the name.
    """
    variables: list[str] = []
    for stage in graph.stages:
        variables += [stage.name, *stage.inputs, *(node.name for node in stage.nodes)]
    for name in (graph.name, *variables):
        if not _NAME.fullmatch(name) or (name in variables and keyword.iskeyword(name)):
            raise EmitError(f"{name!r} is no name for Python code; use a-z, 0-9 and _")


def refuse_foreign(graph: NetworkGraph) -> None:
    """Refuses blocks whose code is another library's.

    Raises:
        EmitError: naming the first one, and what to do.
    """
    calls = [("stem", graph.stem)]
    for stage in graph.stages:
        calls += [(f"{stage.name}.{node.name}", node.block) for node in stage.nodes if node.block]
    for name, call in calls:
        if library := CATALOGUE.stems[call.kind].library:
            raise EmitError(
                f"{name} is a {call.kind}, and emitted source, which needs torch alone, holds no "
                f"code of {library}; `graphc export --to exported` and `--to onnx` write files "
                f"that need neither graphc nor {library}"
            )


def copy_classes(module: fx.GraphModule, excerpt: Excerpt) -> None:
    """Takes in the classes of all layers that a program calls."""
    for node in module.graph.find_nodes(op="call_module"):
        construction = construction_of(module.get_submodule(str(node.target)))
        if construction is not None:
            excerpt.add(construction.cls)
            if construction.cls is Gate:
                excerpt.add(set_inference)


def class_name(name: str) -> str:
    """`layer_1` as `Layer1`."""
    return "".join(part.capitalize() for part in name.split("_"))


def docstring(graph: NetworkGraph, network: str, spec_hash: str, *, has_taps: bool) -> list[str]:
    """The lines of the file's docstring."""
    channels, height, width = graph.input_shape
    routed = any(node.router for stage in graph.stages for node in stage.nodes)
    text = (
        f"Start with the class `{network}`; the classes of its stages stand before it, and before "
        "them those of their layers. A stage is a graph of nodes. In its `forward`, a line "
        "computes a node from another one, or from the list of those that it sums or "
        "concatenates: each is one edge of the graph."
    )
    if has_taps:
        text += " `self.tap` hands on what it is given; it makes gradients cheaper."
    if routed:
        text += (
            " In routed stages, `adjacency[b, j, i]` is the weight of the edge from node i to node "
            "j for image b; `set_inference` says how edges are closed in eval mode, `use_sparse` "
            "skips what is closed."
        )
    return [
        f'"""The network `{graph.name}`, written by graphc; it needs torch alone.',
        "",
        *wrap(text, WIDTH),
        "",
        f"Spec: content hash {spec_hash}",
        f"Shape: (B, {channels}, {height}, {width}) -> (B, {graph.num_classes}); "
        "the shapes below are for this size",
        '"""',
    ]
