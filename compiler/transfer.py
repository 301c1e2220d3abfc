"""Weights cross over: from torchvision, timm, a file or a static twin, and back to torchvision.

A rule says how a reference implementation names the parts of one block kind; no rule names a
model. Whatever the rules leave over, on either side, is an error that names it - but for what a
dynamic network has by design and its static twin has not, which is reported.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor, nn

from compiler.analysis import analyze
from graphspec import NetworkGraph, NetworkSpec, Node, StageGraph

Tensors = Mapping[str, Tensor]
Names = Mapping[str, str]
"""Our submodule -> the reference's; "" stands for all that no other name covers."""


class WeightsError(Exception):
    """Tensors of a network and a reference that do not fit each other, by name."""


@dataclass(frozen=True)
class Transfer:
    """What an import did, by tensor name."""

    copied: Names
    """our tensor -> the reference's"""
    fresh: tuple[str, ...]
    """ours that the reference has no counterpart for; they keep their initial values"""
    unused: tuple[str, ...]
    """the reference's that this network has no place for"""

    def summary(self) -> str:
        """One line on what was copied, and one for each part that was not."""
        lines = [f"copied {len(self.copied)} tensors"]
        ours = (".".join(name.split(".")[:2]) for name in self.fresh)
        lines += [f"fresh: {part} ({_tensors(n)})" for part, n in Counter(ours).items()]
        theirs = (name.rpartition(".")[0] for name in self.unused)
        lines += [f"not copied: {part} ({_tensors(n)})" for part, n in Counter(theirs).items()]
        return "\n".join(lines)


@dataclass(frozen=True)
class Family:
    """How a reference implementation names its tensors.

    Templates may use {stage} (from 1), {stage_name}, {block} (of the stage, from 0),
    {block_from_1}, {number} (of the block in the network, from 1), and {layer} and
    {next_layer} (from 0, where convolution, norm and activation are layers of one sequence).
    """

    name: str
    mark: str
    """a tensor that no other family has"""
    stem: Mapping[str, Names]
    block: str
    """prefix of a block; the names of `kinds` come after it"""
    kinds: Mapping[str, Names]
    head: Mapping[str, Names]
    shortcut: str = "downsample"
    """a block's projection shortcut, after its prefix"""
    output: str = ""
    """prefix of an output node that is a block"""


SAME: Names = {"": ""}
FAMILIES = (
    Family(
        name="ResNet of torchvision and timm",
        mark="layer1.0.conv1.weight",
        stem={"imagenet": {"conv1": "conv1", "bn1": "bn1"}},
        block="layer{stage}.{block}",
        kinds={"basic": SAME, "bottleneck": SAME},
        head={"pooled_linear": {"fc": "fc"}},
    ),
    Family(
        name="MobileNetV2 of torchvision",
        mark="features.1.conv.0.0.weight",
        stem={"conv_bn_relu": {"conv": "features.0.0", "bn": "features.0.1"}},
        block="features.{number}",
        kinds={"inverted_bottleneck": SAME},
        head={
            "conv_pooled_linear": {
                "conv": "features.{number}.0",
                "bn": "features.{number}.1",
                "fc": "classifier.1",
            }
        },
    ),
    Family(
        name="RegNet of torchvision",
        mark="trunk_output.block1.block1-0.f.a.0.weight",
        stem={"conv_bn_relu": {"conv": "stem.0", "bn": "stem.1"}},
        block="trunk_output.block{stage}.block{stage}-{block}",
        kinds={"regular_bottleneck": SAME},
        head={"pooled_linear": {"fc": "fc"}},
        shortcut="proj",
    ),
    Family(
        name="RegNet of timm",
        mark="s1.b1.conv1.conv.weight",
        stem={"conv_bn_relu": {"conv": "stem.conv", "bn": "stem.bn"}},
        block="s{stage}.b{block_from_1}",
        kinds={
            "regular_bottleneck": {
                "f.a.0": "conv1.conv",
                "f.a.1": "conv1.bn",
                "f.b.0": "conv2.conv",
                "f.b.1": "conv2.bn",
                "f.se": "se",
                "f.c.0": "conv3.conv",
                "f.c.1": "conv3.bn",
                "proj.0": "downsample.conv",
                "proj.1": "downsample.bn",
            }
        },
        head={"pooled_linear": {"fc": "head.fc"}},
    ),
    Family(
        name="VGG with batch norm of torchvision",
        mark="classifier.6.weight",
        stem={},
        block="features",
        kinds={"conv_bn_relu": {"conv": "{layer}", "bn": "{next_layer}"}, "max_pool": {}},
        head={"mlp": {"classifier": "classifier"}},
        output="features",
    ),
    Family(
        name="DenseNet of torchvision",
        mark="features.denseblock1.denselayer1.conv1.weight",
        stem={"imagenet": {"conv1": "features.conv0", "bn1": "features.norm0"}},
        block="features.denseblock{stage}.denselayer{block_from_1}",
        kinds={"dense_layer": SAME, "dense_transition": SAME},
        head={"norm_pooled_linear": {"norm": "features.norm5", "fc": "classifier"}},
        output="features.transition{stage}",
    ),
)
_OF_EDGES = ("threshold", "router", "gate", "aggregate")
_LAYERS_OF_A_SEQUENCE = {"conv_bn_relu": 3, "max_pool": 1}
_OLD_DENSENET_NAME = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")


def import_weights(
    model: nn.Module, spec: NetworkSpec, reference: str | PathLike[str] | Tensors
) -> Transfer:
    """Copies a reference's weights into the compiled `model` of `spec`.

    `reference` is `torchvision:NAME` or `timm:NAME` (with random weights; nothing is
    downloaded), a file of tensors (safetensors, or a pickled state_dict), or a state_dict. A
    dynamic network takes the weights of its static twin: a stage's input node, if it is a block
    like the others, is the twin's first block.

    Raises:
        WeightsError: before anything is copied, naming every tensor that does not fit.
    """
    theirs = reference if isinstance(reference, Mapping) else read_weights(reference)
    wrapped = all(name.startswith("module.") for name in theirs)  # saved from within DDP
    theirs = {
        _OLD_DENSENET_NAME.sub(r"\1\2", name.removeprefix("module.") if wrapped else name): tensor
        for name, tensor in theirs.items()
    }
    ours = model.state_dict()
    graph = analyze(spec)[0]
    match = _match(graph, ours, theirs, _family(theirs, graph, ours))
    transfer = _checked(match, ours, theirs)
    with torch.no_grad():
        for name, their_name in transfer.copied.items():
            ours[name].copy_(theirs[their_name])
    return transfer


def export_weights(model: nn.Module, spec: NetworkSpec, to: str) -> dict[str, Tensor]:
    """The weights of a static network as `torchvision:NAME` or `timm:NAME` loads them strictly.

    Raises:
        WeightsError: naming every tensor that does not fit.
    """
    with torch.random.fork_rng(devices=()):
        theirs = _library_weights(to)
    ours, graph = model.state_dict(), analyze(spec)[0]
    match = _match(graph, ours, theirs, _family(theirs, graph, ours))
    transfer = _checked(match, ours, theirs)
    if transfer.fresh or transfer.unused:
        raise WeightsError(
            f"{spec.name} is not the network {to}: only static networks can be exported\n"
            + _listing("only here", transfer.fresh)
            + _listing("only there", transfer.unused)
        )
    names = {their_name: name for name, their_name in transfer.copied.items()}
    return {name: ours[names[name]].detach().clone() for name in theirs}


def read_weights(reference: str | PathLike[str]) -> dict[str, Tensor]:
    """The tensors of `torchvision:NAME`, `timm:NAME` or a file.

    Raises:
        WeightsError: if there are none.
    """
    if str(reference).startswith(("torchvision:", "timm:")):
        return _library_weights(str(reference))
    path = Path(reference)
    if not path.is_file():
        raise WeightsError(f"there is no file {path}; name one, or torchvision:NAME or timm:NAME")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise WeightsError(f"{path} holds no tensors that can be read: {error}") from error
    for key in ("state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not all(isinstance(t, Tensor) for t in loaded.values()):
        raise WeightsError(f"{path} holds no state_dict: names and tensors, nothing else")
    return dict(loaded)


def _library_weights(reference: str) -> dict[str, Tensor]:
    """The tensors of a library's model, with random values."""
    library, _, name = reference.partition(":")
    if library == "torchvision":
        from torchvision import models

        if name not in models.list_models(module=models):
            raise WeightsError(f"torchvision has no model {name!r}")
        return models.get_model(name, weights=None).state_dict()
    if library == "timm":
        try:
            import timm
        except ImportError as error:
            raise WeightsError("timm is not installed: pip install timm") from error
        if not timm.is_model(name):
            raise WeightsError(f"timm has no model {name!r}")
        return timm.create_model(name, pretrained=False).state_dict()
    raise WeightsError(f"{reference!r}: write torchvision:NAME or timm:NAME")


def _family(theirs: Tensors, graph: NetworkGraph, ours: Tensors) -> Family:
    """The family whose names a reference has."""
    for family in FAMILIES:
        if family.mark in theirs:
            return family
    if any(name.startswith("head.") for name in theirs):
        return _graphc_family(graph)
    known = "; ".join(family.name for family in FAMILIES)
    raise WeightsError(
        f"the reference's names are of no known family ({known}; a network compiled here).\n"
        + _listing("reference", tuple(theirs))
        + _listing("this network", tuple(ours))
    )


def _graphc_family(graph: NetworkGraph) -> Family:
    """A static network that was compiled here: the twin of a dynamic one."""
    kinds = {node.block.kind for stage in graph.stages for node in stage.nodes if node.block}
    return Family(
        name="a network compiled here",
        mark="",
        stem={graph.stem.kind: {"": "stem"}},
        block="{stage_name}.n{block_from_1}",
        kinds=dict.fromkeys(kinds, SAME),
        head={graph.head.kind: {"": "head"}},
        output="{stage_name}.output",
    )


@dataclass
class _Match:
    """Names side by side, before anyone looked whether the tensors are there and fit."""

    names: dict[str, str] = field(default_factory=dict)
    fresh: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    """(prefixes of) reference tensors that a dynamic network has no place for"""


def _match(graph: NetworkGraph, ours: Tensors, theirs: Tensors, family: Family) -> _Match:
    """Goes through both networks side by side.

    Where all but routers, thresholds and edge weights have the same names, as in two kinds of
    edge weights on one graph, name goes to name. For others:

    1. Routers, thresholds and edge weights are fresh: a static twin has none.
    2. An input node that is a block unlike the regular ones is fresh; the twin's first block is
       then n1. It is fresh too where it gathers other channels than the twin's, which changes
       them itself.
    3. A block without shortcut leaves out its counterpart's projection.
    """
    if _without_edges(ours) == _without_edges(theirs):
        return _Match(
            {name: name for name in ours if name in theirs},
            [name for name in ours if name not in theirs],
            [name for name in theirs if name not in ours],
        )
    match = _Match()
    number, layer = 1, 0
    match.names |= _counterparts(ours, "stem", graph.stem.kind, family, family.stem, "", {})
    for stage_number, stage in enumerate(graph.stages, start=1):
        block, has_own_input = 0, False
        match.fresh += [
            name for name in ours if name.startswith(f"{stage.name}.") and _is_of_edges(name)
        ]
        for node in stage.nodes:
            if node.block is None:
                continue
            name, kind = f"{stage.name}.{node.name}", node.block.kind
            if node.role == "input" and not _is_first_block(stage, node):
                match.fresh += [tensor for tensor in ours if tensor.startswith(f"{name}.")]
                has_own_input = True
                continue
            place = {
                "stage": stage_number,
                "stage_name": stage.name,
                "block": block,
                "block_from_1": block + 1,
                "number": number,
                "layer": layer,
                "next_layer": layer + 1,
            }
            prefix = family.output if node.role == "output" else family.block
            names = _counterparts(ours, name, kind, family, family.kinds, prefix, place)
            if has_own_input and block == 0 and not _same_shapes(names, ours, theirs):
                match.fresh += names
                match.left_out += names.values()
            else:
                match.names |= names
            if dict(node.block.params).get("shortcut") is False:
                match.left_out.append(f"{prefix.format(**place)}.{family.shortcut}.")
            layer += _LAYERS_OF_A_SEQUENCE.get(kind, 0)
            if node.role != "output":
                block, number = block + 1, number + 1
    place = {"number": number}
    match.names |= _counterparts(ours, "head", graph.head.kind, family, family.head, "", place)
    return match


def _without_edges(tensors: Tensors) -> set[str]:
    return {name for name in tensors if not _is_of_edges(name)}


def _is_of_edges(name: str) -> bool:
    """Whether a tensor belongs to a stage's edges: `layer1.router.n2.fc.weight`."""
    _, _, rest = name.partition(".")
    return rest.partition(".")[0] in _OF_EDGES


def _same_shapes(names: Names, ours: Tensors, theirs: Tensors) -> bool:
    return all(
        ours[name].shape == theirs[their_name].shape
        for name, their_name in names.items()
        if their_name in theirs
    )


def _is_first_block(stage: StageGraph, node: Node) -> bool:
    """Whether an input node is a block like the regular ones, its shortcut aside."""

    def likeness(node: Node) -> tuple[object, ...]:
        assert node.block is not None
        return (
            node.block.kind,
            *(item for item in node.block.params if item[0] != "shortcut"),
        )

    regular = [other for other in stage.nodes if other.role == "block" and other.block]
    return any(likeness(node) == likeness(other) for other in regular)


def _counterparts(
    ours: Tensors,
    module: str,
    kind: str,
    family: Family,
    kinds: Mapping[str, Names],
    prefix: str,
    place: Mapping[str, int | str],
) -> dict[str, str]:
    """The reference's name of every tensor of our `module`."""
    tensors = [name for name in ours if name.startswith(f"{module}.")]
    if tensors and kind not in kinds:
        known = ", ".join(kinds) or "none"
        raise WeightsError(
            f"{module} is of kind {kind!r}; {family.name} has no such part (it has: {known})"
        )
    names: dict[str, str] = {}
    for name in tensors:
        suffix, rules = name.removeprefix(f"{module}."), kinds[kind]
        fitting = [rule for rule in rules if rule == "" or suffix.startswith(f"{rule}.")]
        if not fitting:
            raise WeightsError(f"{name}: {family.name} has no such tensor in a {kind!r}")
        rule = max(fitting, key=len)
        parts = (prefix, rules[rule], suffix[len(rule) :].lstrip("."))
        names[name] = ".".join(part for part in parts if part).format(**place)
    return names


def _checked(match: _Match, ours: Tensors, theirs: Tensors) -> Transfer:
    """The transfer that a match amounts to.

    Raises: WeightsError for tensors that are missing, left over or of another shape.
    """
    # Checkpoints from before torch 0.4.1 lack this counter, which only `momentum=None` reads.
    copied = {
        name: their_name
        for name, their_name in match.names.items()
        if their_name in theirs or not name.endswith(".num_batches_tracked")
    }
    missing = [
        f"{their_name} (for {name})"
        for name, their_name in copied.items()
        if their_name not in theirs
    ]
    reached = set(copied.values())
    rest = [name for name in theirs if name not in reached]
    unused = [name for name in rest if name.startswith(tuple(match.left_out))]
    left_over = [name for name in rest if name not in set(unused)]
    misshapen = [
        f"{name} is {_size(ours[name])}, {their_name} is {_size(theirs[their_name])}"
        for name, their_name in copied.items()
        if their_name in theirs and ours[name].shape != theirs[their_name].shape
    ]
    if missing or left_over or misshapen:
        raise WeightsError(
            "the reference does not fit this network; nothing was copied\n"
            + _listing("missing in the reference", missing)
            + _listing("left over in the reference", left_over)
            + _listing("of another shape", misshapen)
        )
    return Transfer(copied, tuple(match.fresh), tuple(unused))


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"


def _listing(title: str, names: Sequence[str]) -> str:
    return "".join([f"{title}:\n", *(f"  {name}\n" for name in names)]) if names else ""


def _tensors(number: int) -> str:
    return f"{number} tensor" if number == 1 else f"{number} tensors"
