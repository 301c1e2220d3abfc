"""Random specs for property tests: every wiring, weight and aggregate, small and valid.

Shapes fit by construction. All sizes are those of the input halved a few times and rounded up,
so that a tensor's size is the number of its halvings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from graphspec import NetworkSpec

Values = dict[str, Any]

MAX_HALVINGS = 2
WIDTHS = st.sampled_from([4, 8])
NAMES = ("left", "right", "mix", "wide", "deep")

ROUTED: st.SearchStrategy[Values] = st.fixed_dictionaries(
    {"kind": st.just("routed")},
    optional={
        "bias_init": st.sampled_from([-1.0, 0.0, 3.0]),
        "threshold": st.sampled_from([None, 0.0, 0.5]),
        "learnable_threshold": st.booleans(),
        "inference": st.sampled_from(["consistent", "literal"]),
    },
)
FIXED: st.SearchStrategy[Values] = st.fixed_dictionaries(
    {"kind": st.just("fixed")}, optional={"value": st.sampled_from([0.5, 1.0, -1.0])}
)


@dataclass(frozen=True)
class Tensor:
    """What a stage hands on: its channels (None: not followed up), and its number of halvings."""

    channels: int | None
    halvings: int


@st.composite
def specs(draw: st.DrawFn) -> NetworkSpec:
    """Valid networks of up to three stages with up to six nodes between their ends."""
    size = draw(st.tuples(st.integers(8, 16), st.integers(8, 16)))
    width, halvings = draw(WIDTHS), draw(st.integers(0, 1))
    tensors = {"stem": Tensor(width, halvings)}
    stages = list[Values]()
    for name in ("layer1", "layer2", "layer3")[: draw(st.integers(1, 3))]:
        stage, tensors[name] = draw(generated_stages(tensors, size) | explicit_stages(tensors))
        stages.append({"name": name, **stage})
    return NetworkSpec.model_validate(
        {
            "version": 1,
            "name": "random",
            "seed": draw(st.integers(0, 99)),
            "input_shape": [draw(st.integers(1, 3)), *size],
            "stem": {"kind": "conv_bn_relu", "width": width, "stride": 2**halvings},
            "stages": stages,
            "head": draw(heads()),
        }
    )


@st.composite
def generated_stages(
    draw: st.DrawFn, tensors: dict[str, Tensor], size: tuple[int, int]
) -> tuple[Values, Tensor]:
    """A stage wired by a rule, fed by the stage before it; and what it hands on."""
    received = list(tensors.values())[-1]
    depth = draw(st.integers(1, 5))
    wiring = draw(wirings(depth))
    aggregate = draw(st.sampled_from(["sum", "mean", "concat"]))
    has_input_block = received.channels is None or draw(st.booleans())
    # Where a plain input node feeds nodes beside the blocks, its shape must be theirs.
    keeps_shape = not has_input_block and wiring["kind"] in ("complete", "residual")
    may_halve = received.halvings < MAX_HALVINGS and not keeps_shape
    stride = draw(st.sampled_from([1, 2])) if may_halve else 1
    same_width = keeps_shape and aggregate != "concat" and received.channels
    width = same_width or draw(WIDTHS)
    halvings = received.halvings + stride - 1
    # Nodes that hand on the channels they get are safe once every node gets the stage's.
    is_even = has_input_block or (stride == 1 and width == received.channels)
    stage: Values = {
        "depth": depth,
        "width": width,
        "stride": stride,
        "block": draw(blocks(strided=stride > 1)),
        "wiring": wiring,
        "aggregate": aggregate,
    }
    if has_input_block:
        stage["input_node"] = draw(blocks(strided=stride > 1))
    if draw(st.booleans()):
        overrides = node_overrides(strided=stride > 1, may_keep=is_even, aggregate=aggregate)
        numbers = st.integers(1, depth).map("n{}".format)
        stage["nodes"] = draw(st.dictionaries(numbers, overrides, max_size=2))
    if aggregate != "concat":
        stage |= draw(weights_by_place(stage))
    channels = None if aggregate == "concat" else width
    if aggregate != "concat" or draw(st.booleans()):
        output = draw(output_blocks(Tensor(width, halvings), size))
        if output is not None:
            stage["output_node"] = stage.get("output_node", {}) | output
            halvings += output.get("stride", 1) - 1
            channels = channels if output["kind"].endswith("pool") else width
    return stage, Tensor(channels, halvings)


@st.composite
def explicit_stages(draw: st.DrawFn, tensors: dict[str, Tensor]) -> tuple[Values, Tensor]:
    """A stage of named nodes and edges, fed by one or several stages; and what it hands on.

    A convolution behind each input node, or in it, brings what comes in to one shape.
    """
    names = list(tensors)
    inputs = [*draw(st.lists(st.sampled_from(names), max_size=2, unique=True)), names[-1]]
    inputs = list(dict.fromkeys(inputs))
    input_names = inputs if len(inputs) > 1 else ["input"]
    halvings = max(tensors[name].halvings for name in inputs)
    if halvings < MAX_HALVINGS:
        halvings += draw(st.integers(0, 1))
    width = draw(WIDTHS)
    strides = [2 ** (halvings - tensors[name].halvings) for name in inputs]
    stage: Values = {"width": width, "block": draw(blocks())}
    nodes = dict[str, Values]()
    edges = list[Values]()
    has_input_blocks = draw(st.booleans())
    if has_input_blocks:
        stage["input_node"] = {"kind": "conv_bn_relu", "kernel": 1}
        known = list(input_names)
        if len(inputs) == 1:
            stage["stride"] = strides[0]
        else:
            nodes = {name: {"stride": stride} for name, stride in zip(inputs, strides, strict=True)}
    else:
        known = [f"from_{name}" for name in input_names]
        for name, adapter, stride in zip(input_names, known, strides, strict=True):
            edges.append({"source": name, "target": adapter})
            nodes[adapter] = {"kind": "conv_bn_relu", "kernel": 1, "stride": stride}
    if len(inputs) > 1 or draw(st.booleans()):
        stage["inputs"] = inputs
    bodies = draw(st.lists(st.sampled_from(NAMES), max_size=6 - len(known), unique=True))
    for name in bodies:
        sources = draw(st.lists(st.sampled_from(known), min_size=1, max_size=3, unique=True))
        edges += [{"source": source, "target": name} for source in sources]
        known.append(name)
        if override := draw(st.none() | node_overrides(may_keep=True, aggregate="sum")):
            nodes[name] = override
    fed = {edge["source"] for edge in edges}
    edges += [{"source": name, "target": "output"} for name in known if name not in fed]
    stage |= draw(weights_by_place(stage))
    settings = [weights for weights in _weights_of(stage) if weights["kind"] != "fixed"]
    own = st.sampled_from(settings) | FIXED if settings else FIXED | edge_weights()
    first = draw(own)
    for edge in draw(st.lists(st.sampled_from(edges), max_size=3, unique_by=id)):
        edge["edge_weights"] = first
    stage["wiring"] = {"kind": "explicit", "edges": draw(st.permutations(edges))}
    _join_some(draw, stage, nodes, bodies)
    if nodes:
        stage["nodes"] = nodes
    return stage, Tensor(width, halvings)


def _join_some(draw: st.DrawFn, stage: Values, nodes: dict[str, Values], bodies: list[str]) -> None:
    """Lets one node concatenate what it gets, unweighted."""
    candidates = [n for n in bodies if nodes.get(n, {}).get("kind", "basic") in CHANGING]
    if not candidates or not draw(st.booleans()):
        return
    name = draw(st.sampled_from(candidates))
    nodes[name] = nodes.get(name, {}) | {"aggregate": "concat"}
    for edge in stage["wiring"]["edges"]:
        if edge["target"] == name:
            edge["edge_weights"] = {"kind": "fixed"}


@st.composite
def wirings(draw: st.DrawFn, depth: int) -> Values:
    """A wiring rule whose parameters fit `depth`."""
    kinds = ["chain", "complete", "residual", "er"]
    kinds += ["ba"] if depth > 1 else []
    kinds += ["ws"] if depth > 2 else []
    kind = draw(st.sampled_from(kinds))
    if kind == "er":
        return {"kind": kind, "p": draw(st.sampled_from([0.4, 0.7, 1.0]))}
    if kind == "ba":
        return {"kind": kind, "m": draw(st.integers(1, depth - 1))}
    if kind == "ws":
        k = draw(st.sampled_from([2, 4] if depth > 4 else [2]))
        return {"kind": kind, "k": k, "p": draw(st.sampled_from([0.0, 0.5, 1.0]))}
    return {"kind": kind}


CHANGING: dict[str, st.SearchStrategy[Values]] = {
    "basic": st.fixed_dictionaries({}, optional={"shortcut": st.booleans()}),
    "bottleneck": st.fixed_dictionaries(
        {}, optional={"expansion": st.sampled_from([1, 2]), "shortcut": st.booleans()}
    ),
    "conv_bn_relu": st.fixed_dictionaries(
        {"kernel": st.sampled_from([1, 3])},
        optional={"activation": st.sampled_from(["relu6", "none"]), "bias": st.booleans()},
    ),
    "dense_layer": st.fixed_dictionaries({"bn_size": st.just(2)}),
    "inverted_bottleneck": st.fixed_dictionaries({"expansion": st.sampled_from([1, 2.0])}),
    "regular_bottleneck": st.fixed_dictionaries(
        {"group_width": st.sampled_from([2, 4])}, optional={"se_ratio": st.just(0.25)}
    ),
    "separable_conv": st.fixed_dictionaries({}, optional={"shortcut": st.booleans()}),
}
"""Blocks that put out the width they are told, and parameters that fit it."""


@st.composite
def blocks(draw: st.DrawFn, *, strided: bool = False) -> Values:
    """A block that can change channels and, if `strided`, the size."""
    kinds = sorted(CHANGING.keys() - ({"dense_layer"} if strided else set()))
    kind = draw(st.sampled_from(kinds))
    return {"kind": kind, **draw(CHANGING[kind])}


@st.composite
def node_overrides(
    draw: st.DrawFn, *, strided: bool = False, may_keep: bool, aggregate: str
) -> Values:
    """What a node does otherwise; `may_keep` blocks hand on the channels that they get."""
    keeping = st.sampled_from([{"kind": "identity"}, {"kind": "sliding_max_pool"}])
    override = draw(blocks(strided=strided) | keeping if may_keep else blocks(strided=strided))
    if aggregate != "concat" and draw(st.booleans()):
        override["aggregate"] = draw(st.sampled_from(["sum", "mean"]))
    return override


@st.composite
def output_blocks(draw: st.DrawFn, gathered: Tensor, size: tuple[int, int]) -> Values | None:
    """A block in the output node, or none."""
    strides = [1] if gathered.halvings == MAX_HALVINGS else [1, 2]
    step = 2**gathered.halvings
    kinds = ["conv_bn_relu", "sliding_max_pool"]
    # This one rounds down, and stands where that is the same as rounding up.
    kinds += ["max_pool"] if all(-(-length // step) % 2 == 0 for length in size) else []
    if not draw(st.booleans()):
        return None
    return {"kind": draw(st.sampled_from(kinds)), "stride": draw(st.sampled_from(strides))}


def edge_weights() -> st.SearchStrategy[Values]:
    """Weights of any kind, each with some of its parameters."""
    learned = st.fixed_dictionaries(
        {"kind": st.just("learned")},
        optional={
            "function": st.sampled_from(["sigmoid", "free"]),
            "init": st.sampled_from([0.5, 1.0]),
        },
    )
    return FIXED | learned | ROUTED


@st.composite
def weights_by_place(draw: st.DrawFn, stage: Values) -> Values:
    """Edge weights of the stage and of its end nodes; of one setting, where that is asked for."""
    weights = draw(edge_weights())
    places: Values = {"edge_weights": weights}
    for key in ("input_node", "output_node"):
        own = draw(st.none() | FIXED | st.just(weights))
        if own is not None:
            places[key] = {"kind": "identity", **stage.get(key, {}), "edge_weights": own}
    return places


def _weights_of(stage: Values) -> list[Values]:
    ends = [stage.get("input_node", {}), stage.get("output_node", {}), stage]
    return [place["edge_weights"] for place in ends if "edge_weights" in place]


def heads() -> st.SearchStrategy[Values]:
    """Heads of few parameters."""
    classes = st.integers(2, 3)
    return st.one_of(
        st.fixed_dictionaries({"kind": st.just("pooled_linear"), "num_classes": classes}),
        st.fixed_dictionaries(
            {
                "kind": st.just("conv_pooled_linear"),
                "num_classes": classes,
                "width": st.just(8),
            }
        ),
        st.fixed_dictionaries({"kind": st.just("norm_pooled_linear"), "num_classes": classes}),
        st.fixed_dictionaries(
            {
                "kind": st.just("mlp"),
                "num_classes": classes,
                "pool_size": st.integers(1, 2),
                "hidden": st.sampled_from([(), (8,), (8, 4)]),
                "dropout": st.just(0),
            }
        ),
    )
