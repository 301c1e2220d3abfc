"""The rules of the language that need more than one field; single fields are spec.py's.

`verify` holds those that are known before any edge is drawn, `verify_wired` those about edges.
What only follows from another error is not reported.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from graphspec.catalogue import CATALOGUE, Entry, verify_blocks
from graphspec.errors import Report, format_path, suggest
from graphspec.graph import SpecPath, StageGraph
from graphspec.names import reserved_for
from graphspec.spec import BlockSpec, NetworkSpec, NodeSpec, StageSpec, StemSpec
from graphspec.weights import EdgeWeights, Fixed, Learned, Routed
from graphspec.wiring.explicit import Explicit, ExplicitEdge, find_cycle


def stage_inputs(spec: NetworkSpec, index: int) -> tuple[str, ...]:
    """What feeds a stage: stages before it, or the stem."""
    before = spec.stages[index - 1].name if index else "stem"
    return spec.stages[index].inputs or (before,)


def input_names(inputs: Sequence[str]) -> tuple[str, ...]:
    """What the input nodes of a stage with these inputs are called."""
    return tuple(inputs) if len(inputs) > 1 else ("input",)


def verify(spec: NetworkSpec, report: Report) -> list[int]:
    """Checks what is known before edges are drawn; returns the stages that can be wired."""
    verify_blocks(spec.model_dump(), report)
    _verify_width_used(spec.stem, spec.stem.kind, CATALOGUE.stems, ("stem",), report)
    _verify_stage_names(spec, report)
    _verify_seed(spec, report)
    if not _verify_limits(spec, report):
        return []
    sound = list[int]()
    for index in range(len(spec.stages)):
        before = len(report.errors)
        _verify_stage(spec, index, report)
        if len(report.errors) == before:
            sound.append(index)
    _verify_stages_used(spec, report)
    return sound


def _verify_stage_names(spec: NetworkSpec, report: Report) -> None:
    seen = dict[str, int]()
    for index, stage in enumerate(spec.stages):
        path = ("stages", index, "name")
        if owner := reserved_for(stage.name):
            report.error(
                "name-reserved",
                path,
                f"a stage cannot be called {stage.name!r}: {owner} uses that name",
                f"call it {stage.name}_1, or anything else",
            )
        if stage.name in seen:
            report.error(
                "stage-duplicate",
                path,
                f"stages[{seen[stage.name]}] is called {stage.name!r} too",
                "give every stage a name of its own",
            )
        seen.setdefault(stage.name, index)


def _verify_seed(spec: NetworkSpec, report: Report) -> None:
    drawn = [(i, stage) for i, stage in enumerate(spec.stages) if stage.wiring.is_random]
    if drawn and "seed" not in spec.model_fields_set:
        names = _listed(stage.name for _, stage in drawn)
        report.warning(
            "seed-defaulted",
            ("stages", drawn[0][0], "wiring"),
            f"the wiring of {names} is random and no seed is given, so it is drawn with seed 0",
            "add `seed: 0` to the spec, or another number",
        )


def _verify_stages_used(spec: NetworkSpec, report: Report) -> None:
    used, known = set[str](), {"stem"}
    for index, stage in enumerate(spec.stages):
        used.update(stage_inputs(spec, index))
        if not used <= known:
            return  # a wrong input may stand for the one that is missing
        known.add(stage.name)
    for index, stage in enumerate(spec.stages[:-1]):
        if stage.name not in used:
            report.error(
                "stage-unused",
                ("stages", index),
                f"stage {stage.name!r} feeds no later stage, so the head never sees it",
                f"add {stage.name!r} to the inputs of a later stage, or remove it",
            )


def _verify_limits(spec: NetworkSpec, report: Report) -> bool:
    """Whether the network is small enough to be drawn."""
    num_nodes, num_edges = list[int](), list[int]()
    for index, stage in enumerate(spec.stages):
        depth, inputs = stage.depth or 0, stage_inputs(spec, index)
        if isinstance(stage.wiring, Explicit):
            depth = len(stage.wiring.block_nodes(input_names(inputs)))
        num_nodes.append(depth + len(inputs) + 1)
        num_edges.append(stage.wiring.max_edges(depth))
    small = True
    for noun, counts in (("nodes", num_nodes), ("edges", num_edges)):
        limit: int = getattr(spec.limits, noun)
        if sum(counts) > limit:
            index = counts.index(max(counts))
            at_most = "up to " if noun == "edges" else ""
            report.error(
                f"too-many-{noun}",
                ("stages", index, "depth"),
                f"the network would have {at_most}{sum(counts):,} {noun}, {counts[index]:,} of "
                f"them in stage {spec.stages[index].name!r}; the limit is {limit:,}",
                f"lower the depth, or write `limits: {{{noun}: {sum(counts)}}}` if you mean it",
            )
            small = False
    return small


def _verify_stage(spec: NetworkSpec, index: int, report: Report) -> None:
    stage, path = spec.stages[index], ("stages", index)
    inputs_are_sound = _verify_inputs(spec, index, report)
    _verify_end_nodes(stage, path, report)
    names = input_names(stage_inputs(spec, index))
    if isinstance(stage.wiring, Explicit):
        if inputs_are_sound:
            block_nodes = stage.wiring.block_nodes(names)
            _verify_explicit(stage, stage.wiring, path, names, report)
            _verify_nodes(stage, path, names, block_nodes, report)
    elif stage.depth is None:
        report.error(
            "depth-missing",
            path,
            f"stage {stage.name!r} does not say how many block nodes its wiring joins",
            "add `depth: 3`, or another number",
        )
    else:
        for parameter, message, advice in stage.wiring.problems(stage.depth):
            report.error("wiring-misfit", (*path, "wiring", parameter), message, advice)
        block_nodes = [f"n{i + 1}" for i in range(stage.depth)]
        _verify_nodes(stage, path, names, block_nodes, report)


def _verify_inputs(spec: NetworkSpec, index: int, report: Report) -> bool:
    """Whether the stage's inputs are known, so that names can be compared with them."""
    stage, path = spec.stages[index], ("stages", index)
    known = ("stem", *(stage.name for stage in spec.stages[:index]))
    later = {stage.name for stage in spec.stages[index:]}
    before = len(report.errors)
    inputs = stage_inputs(spec, index) if stage.inputs else ()
    for i, name in enumerate(inputs):
        place = (*path, "inputs", i)
        if name in inputs[:i]:
            report.error("input-duplicate", place, f"{name!r} is listed twice", "remove one")
        elif name in known:
            continue
        elif name in later:
            report.error(
                "input-not-earlier",
                place,
                f"stage {stage.name!r} cannot take input from {name!r}, which is not before it",
                f"take one of {_listed(known)}, or reorder the stages",
            )
        else:
            hint, _ = suggest(name, known, otherwise=_shortened(known))
            report.error("input-unknown", place, f"there is no stage {name!r}", hint)
    if len(set(inputs)) > 1 and not isinstance(stage.wiring, Explicit):
        report.error(
            "inputs-need-explicit",
            (*path, "wiring"),
            f"stage {stage.name!r} has {len(inputs)} inputs, but its wiring joins only one",
            f"use `wiring: {{kind: explicit, edges: [[{next(iter(inputs))}, n1], ...]}}`",
        )
    return len(report.errors) == before


def _verify_explicit(
    stage: StageSpec, wiring: Explicit, path: SpecPath, inputs: Sequence[str], report: Report
) -> None:
    block_nodes = wiring.block_nodes(inputs)
    place = (*path, "wiring", "edges")
    if stage.depth is not None and stage.depth != len(block_nodes):
        report.error(
            "depth-conflict",
            (*path, "depth"),
            f"depth is {stage.depth}, but the edges name {len(block_nodes)} block nodes"
            + (f": {_listed(block_nodes)}" if block_nodes else ""),
            "remove depth: explicit wiring counts its nodes itself",
        )
    for name in block_nodes:
        if owner := reserved_for(name):
            first = next(i for i, edge in enumerate(wiring.edges) if name in _ends(edge))
            report.error(
                "name-reserved",
                (*place, first),
                f"a node cannot be called {name!r}: {owner} uses that name",
                f"the input nodes are called {_listed(inputs)}"
                if name == "input"
                else f"call it {name}_1, or anything else",
            )
    sound = list(_sound_edges(wiring, inputs, place, report))
    if cycle := find_cycle(sound):
        closing = wiring.edges.index(
            next(edge for edge in sound if _ends(edge) == (cycle[-2], cycle[-1]))
        )
        report.error(
            "cycle",
            (*place, closing),
            f"edges form a cycle: {' -> '.join(cycle)}",
            "remove or turn one of them: features flow from the input to the output only",
        )
    _verify_reached(wiring, inputs, place, block_nodes, report)


def _sound_edges(
    wiring: Explicit, inputs: Sequence[str], place: SpecPath, report: Report
) -> Iterator[ExplicitEdge]:
    """The edges that nothing is wrong with, each by itself; the others are reported."""
    seen = dict[tuple[str, str], int]()
    for i, edge in enumerate(wiring.edges):
        first = seen.setdefault(_ends(edge), i)
        if edge.source == edge.target:
            report.error(
                "edge-self-loop", (*place, i), f"node {edge.source!r} feeds itself", "remove it"
            )
        elif first != i:
            report.error(
                "edge-duplicate",
                (*place, i),
                f"the edge {edge.source} -> {edge.target} is edges[{first}] already",
                "remove one: two nodes are joined by at most one edge",
            )
        elif edge.target in inputs:
            report.error(
                "edge-into-input",
                (*place, i),
                f"{edge.source} -> {edge.target} enters an input node, which receives "
                "what comes into the stage and nothing else",
                "turn or remove the edge",
            )
        elif edge.source == "output":
            report.error(
                "edge-from-output",
                (*place, i),
                f"output -> {edge.target} leaves the output node, which only gathers",
                "turn or remove the edge",
            )
        else:
            yield edge


def _verify_reached(
    wiring: Explicit,
    inputs: Sequence[str],
    place: SpecPath,
    block_nodes: Sequence[str],
    report: Report,
) -> None:
    """Whether every block node and the output receives something, and every input is used."""
    sources = {edge.source: i for i, edge in reversed(list(enumerate(wiring.edges)))}
    targets = {edge.target for edge in wiring.edges}
    for name in block_nodes:
        if name not in targets and not reserved_for(name):
            others = [*inputs, *(other for other in block_nodes if other != name)]
            _, meant = suggest(name, others)
            report.error(
                "node-without-input",
                (*place, sources[name]),
                f"no edge leads to node {name!r}",
                (f"did you mean {meant!r}? Otherwise " if meant else "")
                + f"add an edge to it, e.g. [{inputs[0]}, {name}]",
            )
    if "output" not in targets:
        last = block_nodes[-1] if block_nodes else inputs[0]
        report.error(
            "output-without-input",
            place,
            "no edge leads to the output node",
            f"add one, e.g. [{last}, output]",
        )
    if len(inputs) > 1 and "input" not in sources:  # that one stands for an input, if reserved
        for i, name in enumerate(inputs):
            if name not in sources:
                report.error(
                    "input-unused",
                    (*place[:2], "inputs", i),
                    f"no edge leaves the input node {name!r}",
                    f"add one, e.g. [{name}, output], or remove {name!r} from inputs",
                )


def _verify_nodes(
    stage: StageSpec,
    path: SpecPath,
    inputs: Sequence[str],
    block_nodes: Sequence[str],
    report: Report,
) -> None:
    known = [*block_nodes, *(inputs if len(inputs) > 1 else ())]
    for name in stage.nodes:
        if name in known:
            continue
        if name in ("input", "output"):
            message = f"the {name} node has a key of its own"
            advice = f"write it as `{name}_node:` of the stage, beside `nodes`"
        else:
            message = f"stage {stage.name!r} has no node {name!r}"
            advice, _ = suggest(name, known, otherwise=_shortened(known))
        report.error("node-unknown", (*path, "nodes", name), message, advice, key=True)

    for name, node in stage.nodes.items():
        if name in inputs and node.aggregate is not None:
            _report_aggregate((*path, "nodes", name), report)
        kind = _kind(stage.input_node if name in inputs else stage.block, node)
        if kind == "identity":
            _verify_identity(node, (*path, "nodes", name), report)
        else:
            _verify_width_used(node, kind, CATALOGUE.blocks, (*path, "nodes", name), report)
    _verify_block(stage, path, block_nodes, report)


def _verify_block(
    stage: StageSpec, path: SpecPath, block_nodes: Sequence[str], report: Report
) -> None:
    kinds = {name: _kind(stage.block, stage.nodes.get(name)) for name in block_nodes}
    missing = [name for name, kind in kinds.items() if kind is None]
    if missing:
        report.error(
            "block-missing",
            path,
            f"stage {stage.name!r} does not say which block its nodes are: {_listed(missing)}",
            "add `block: conv_bn_relu` to the stage, or a kind to each node",
        )
    elif stage.block is not None and stage.block.kind not in kinds.values():
        report.warning(
            "block-unused",
            (*path, "block"),
            f"no node of stage {stage.name!r} uses its block {stage.block.kind!r}",
            "remove it, or the kinds under nodes",
        )


def _verify_end_nodes(stage: StageSpec, path: SpecPath, report: Report) -> None:
    for key, node in (("input_node", stage.input_node), ("output_node", stage.output_node)):
        _verify_identity(node, (*path, key), report)
        if node.kind != "identity":
            _verify_width_used(node, node.kind, CATALOGUE.blocks, (*path, key), report)
    if stage.block is not None:
        _verify_identity(stage.block, (*path, "block"), report)
    if stage.input_node.aggregate is not None:
        _report_aggregate((*path, "input_node"), report)


def _report_aggregate(path: SpecPath, report: Report) -> None:
    report.error(
        "aggregate-without-sources",
        (*path, "aggregate"),
        "an input node receives one thing, so it aggregates nothing",
        "remove it; `aggregate` of the stage or of another node says how that one gathers",
        key=True,
    )


def _verify_identity(block: BlockSpec | NodeSpec, path: SpecPath, report: Report) -> None:
    """Parameters of a node that computes nothing have no effect."""
    if block.kind not in (None, "identity"):
        return
    for parameter in block.params:
        report.error(
            "parameter-without-block",
            (*path, parameter),
            f"{parameter!r} is a parameter of a block, but the node has none (kind: identity)",
            "say which block, e.g. `kind: conv_bn_relu`, or remove the parameter",
            key=True,
        )
    if isinstance(block, NodeSpec) and block.width is not None:
        report.error(
            "width-without-block",
            (*path, "width"),
            "the node has no block (kind: identity), so it hands on as many channels as it gets",
            "say which block, e.g. `kind: conv_bn_relu`, or remove the width",
            key=True,
        )


def _verify_width_used(
    block: StemSpec | NodeSpec,
    kind: str | None,
    entries: Mapping[str, Entry],
    path: SpecPath,
    report: Report,
) -> None:
    """Some kinds hand on as many channels as they get, so that a width has no effect."""
    entry = entries.get(kind or "")  # an unknown kind is the catalogue's to report
    if entry is not None and entry.keeps_channels and block.width is not None:
        report.error(
            "width-kept",
            (*path, "width"),
            f"{kind} hands on as many channels as it gets, so a width has no effect",
            "remove the width, or use another kind",
            key=True,
        )


def verify_wired(
    stage: StageSpec, graph: StageGraph, origins: Sequence[SpecPath], report: Report
) -> None:
    """Checks the edges of one stage; `origins` says for each edge where its weights are given."""
    _verify_concat(stage, graph, origins, report)
    _verify_one_setting(graph, origins, report)
    _verify_stride_used(stage, graph, report)
    settings = {o: e.weights for e, o in zip(graph.edges, origins, strict=True)}
    for place, weights in settings.items():
        if isinstance(weights, Routed):
            _verify_gating_used(weights, place, report)
    places = {
        (*graph.path, "edge_weights"): stage.edge_weights,
        (*graph.path, "input_node", "edge_weights"): stage.input_node.edge_weights,
        (*graph.path, "output_node", "edge_weights"): stage.output_node.edge_weights,
    }
    for place, weights in places.items():
        if place not in origins and weights not in (None, Fixed()):
            report.warning(
                "edge-weights-unused",
                place,
                f"no edge of stage {stage.name!r} takes its weights from here: all are said "
                "more specifically, or there is no such edge",
                "remove it",
            )


def _verify_gating_used(weights: Routed, place: SpecPath, report: Report) -> None:
    """Without a threshold no edge is ever closed, and how that is done has no effect."""
    for name in ("learnable_threshold", "inference"):
        is_default = getattr(weights, name) == Routed.model_fields[name].default
        if weights.threshold is None and not is_default:
            report.warning(
                "gating-unused",
                (*place, name),
                f"`threshold: null` closes no edge, so {name!r} has no effect",
                "remove it, or give a threshold",
                key=True,
            )


def _verify_stride_used(stage: StageSpec, graph: StageGraph, report: Report) -> None:
    """The stage's stride goes to input blocks and to sources that have none of their own."""
    copies = {i for i, node in enumerate(graph.nodes) if node.role == "input" and not node.block}
    for index, node in enumerate(graph.nodes[:-1]):
        own = stage.nodes.get(node.name, NodeSpec()).stride
        if node.role == "input":
            takes_stride = node.block and stage.input_node.stride is None
        else:
            takes_stride = all(edge.source in copies for edge in graph.sources_of(index))
        if takes_stride and own is None:
            return
    if stage.stride != 1:
        report.warning(
            "stride-unused",
            (*graph.path, "stride"),
            f"no node of stage {stage.name!r} takes its stride: those that would have their own",
            "remove it, or the strides of the nodes",
        )


def _verify_concat(
    stage: StageSpec, graph: StageGraph, origins: Sequence[SpecPath], report: Report
) -> None:
    for edge, origin in zip(graph.edges, origins, strict=True):
        node = graph.nodes[edge.target]
        if node.aggregate != "concat" or edge.weights == Fixed():
            continue
        if node.role == "output" and stage.output_node.aggregate:
            place = (*graph.path, "output_node", "aggregate")
            advice = "add `edge_weights: fixed` to output_node, or let it sum"
        elif node.name in stage.nodes and stage.nodes[node.name].aggregate:
            place = (*graph.path, "nodes", node.name, "aggregate")
            advice = "use `aggregate: sum`, or fixed weights on its input edges"
        else:
            place = (*graph.path, "aggregate")
            advice = "use `aggregate: sum`, or remove edge_weights"
        report.error(
            "concat-weighted",
            place,
            f"concat joins features as they are, but edges into them have "
            f"{_described(edge.weights)} weights ({format_path(origin)})",
            advice,
        )


def _verify_one_setting(graph: StageGraph, origins: Sequence[SpecPath], report: Report) -> None:
    """All routed edges of a stage share one setting, all learned ones one function."""
    routed: tuple[Routed, SpecPath] | None = None
    learned: tuple[Learned, SpecPath] | None = None
    for edge, origin in zip(graph.edges, origins, strict=True):
        weights = edge.weights
        if isinstance(weights, Routed):
            routed = routed or (weights, origin)
            if weights != routed[0]:
                different = [
                    f"{name} {getattr(weights, name)!r} and {getattr(routed[0], name)!r}"
                    for name in Routed.model_fields
                    if getattr(weights, name) != getattr(routed[0], name)
                ]
                report.error(
                    "routed-conflict",
                    origin,
                    f"routed edges of stage {graph.name!r} differ from those of "
                    f"{format_path(routed[1])}: {', '.join(different)}",
                    "say it once in `edge_weights` of the stage: a node has one router",
                )
        elif isinstance(weights, Learned):
            learned = learned or (weights, origin)
            if weights.function != learned[0].function:
                report.error(
                    "learned-conflict",
                    origin,
                    f"learned edges of stage {graph.name!r} have function {weights.function!r} "
                    f"here and {learned[0].function!r} at {format_path(learned[1])}",
                    "use one function in a stage",
                )


def _ends(edge: ExplicitEdge) -> tuple[str, str]:
    return edge.source, edge.target


def _kind(base: BlockSpec | NodeSpec | None, own: NodeSpec | None) -> str | None:
    return (own and own.kind) or (base and base.kind)


def _described(weights: EdgeWeights) -> str:
    return (
        f"fixed {weights.value}" if isinstance(weights, Fixed) else type(weights).__name__.lower()
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(_shortened(names))


def _shortened(names: Iterable[str]) -> list[str]:
    """The names, of many only the first and the last."""
    names = list(names)
    return names if len(names) <= 8 else [*names[:4], "...", *names[-2:]]
