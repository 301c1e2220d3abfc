"""What a spec means: from what the user wrote to stages, nodes and edges.

Block parameters stay as written; the compiler checks them and fills in their defaults.
"""

from __future__ import annotations

import random
from typing import Any, Literal, NamedTuple, TypeVar

from graphspec.catalogue import CATALOGUE
from graphspec.errors import Report
from graphspec.graph import BlockCall, Edge, NetworkGraph, Node, SpecPath, StageGraph
from graphspec.spec import BlockSpec, NetworkSpec, NodeSpec, StageSpec
from graphspec.verify import input_names, stage_inputs, verify, verify_wired
from graphspec.weights import EdgeWeights
from graphspec.wiring._base import BrokenRuleError, Edges, NotConnectedError
from graphspec.wiring.explicit import Explicit

T = TypeVar("T")


def build(spec: NetworkSpec, report: Report | None = None) -> NetworkGraph:
    """The wired network of a spec; equal specs give equal graphs, in every process.

    `report` receives all findings, warnings included.

    Raises:
        SpecError: with everything that is wrong with the spec.
    """
    findings = Report(spec.provenance)
    stages = [build_stage(spec, index, findings) for index in verify(spec, findings)]
    if report is not None:
        report.extend(findings.diagnostics)
    findings.raise_errors()
    stem, head = spec.stem, spec.head
    return NetworkGraph(
        name=spec.name,
        input_shape=spec.input_shape,
        stem=BlockCall(stem.kind, _sorted(stem.params), ("stem",)),
        stem_width=stem.width,
        stem_stride=stem.stride or default_stem_stride(stem.kind),
        stages=tuple(stage for stage in stages if stage is not None),
        head=BlockCall(head.kind, _sorted(head.params), ("head",)),
        num_classes=head.num_classes,
    )


def default_stem_stride(kind: str) -> int:
    """The smallest stride that a kind of stem can have."""
    return min(CATALOGUE.stems[kind].strides or (1,))


def build_stage(spec: NetworkSpec, index: int, report: Report) -> StageGraph | None:
    """One stage of a verified spec with its edges drawn, or None where that failed."""
    stage, path = spec.stages[index], ("stages", index)
    inputs = stage_inputs(spec, index)
    try:
        names, wires = wire(stage, path, inputs, random.Random(f"{spec.seed}/{stage.name}"))
    except BrokenRuleError as failure:
        report.error(
            "wiring-broken",
            (*path, "wiring"),
            f"stage {stage.name!r}: {failure}",
            f"this is for whoever wrote {type(stage.wiring).__module__} to mend",
        )
        return None
    except NotConnectedError as failure:
        report.error(
            "wiring-not-connected",
            (*path, "wiring"),
            f"stage {stage.name!r}: {failure}{_chances(stage)}",
            "raise what makes edges likely, or change depth",
        )
        return None
    num_inputs, last = len(inputs), len(names) - 1
    nodes = [_node(stage, path, name, "input", takes_stride=True) for name in names[:num_inputs]]
    copies = {i for i, node in enumerate(nodes) if node.block is None}
    not_sources = {wire.target for wire in wires if wire.source not in copies}
    nodes += [
        _node(stage, path, names[i], "block", takes_stride=i not in not_sources)
        for i in range(num_inputs, last)
    ]
    nodes.append(_node(stage, path, names[last], "output", takes_stride=False))
    weighed = [_weights(stage, path, wire, num_inputs, last) for wire in wires]
    edges = tuple(
        Edge(wire.source, wire.target, weights, wire.path)
        for wire, (weights, _) in zip(wires, weighed, strict=True)
    )
    graph = StageGraph(stage.name, inputs, tuple(nodes), edges, path)
    verify_wired(stage, graph, [origin for _, origin in weighed], report)
    return graph


def _chances(stage: StageSpec) -> str:
    """` with p = 0.01`: what the draws depended on."""
    params = stage.wiring.model_dump(exclude={"kind"})
    return f" with {', '.join(f'{name} = {value}' for name, value in params.items())}"


class Wire(NamedTuple):
    """An edge before its weights are settled; `own` are the weights that it names itself."""

    source: int
    target: int
    own: EdgeWeights | None
    path: SpecPath


def wire(
    stage: StageSpec, path: SpecPath, inputs: tuple[str, ...], rng: random.Random
) -> tuple[list[str], list[Wire]]:
    """The names of a stage's nodes in topological order, and its edges by (target, source)."""
    wiring, path = stage.wiring, (*path, "wiring")
    if not isinstance(wiring, Explicit):
        depth = stage.depth or 0
        names = ["input", *(f"n{i}" for i in range(1, depth + 1)), "output"]
        edges = wiring.connect(depth, rng)
        _check_edges(type(wiring).model_fields["kind"].default, edges, depth)
        return names, [Wire(*edge, None, path) for edge in edges]
    names = wiring.order(input_names(inputs))
    index = {name: i for i, name in enumerate(names)}
    wires = [
        Wire(index[edge.source], index[edge.target], edge.edge_weights, (*path, "edges", i))
        for i, edge in enumerate(wiring.edges)
    ]
    return names, sorted(wires, key=lambda wire: (wire.target, wire.source))


def _check_edges(kind: str, edges: Edges, depth: int) -> None:
    """Refuses what a rule may not return.

    Raises: BrokenRuleError naming the rule and the edge.
    """
    seen: set[tuple[int, int]] = set()
    for edge in edges:
        source, target = edge
        if edge in seen:
            raise BrokenRuleError(f"the rule {kind!r} returned the edge {edge} twice")
        if not 0 <= source < target <= depth + 1:
            raise BrokenRuleError(
                f"the rule {kind!r} returned the edge {edge}; edges go from a lower to a "
                f"higher of the nodes 0 .. {depth + 1}"
            )
        seen.add(edge)


def _weights(
    stage: StageSpec, path: SpecPath, wire: Wire, num_inputs: int, last: int
) -> tuple[EdgeWeights, SpecPath]:
    """The weights of an edge, by the most specific place that names any, and that place."""
    if wire.own is not None:
        return wire.own, (*wire.path, "edge_weights")
    if wire.target == last and stage.output_node.edge_weights is not None:
        return stage.output_node.edge_weights, (*path, "output_node", "edge_weights")
    if wire.source < num_inputs and stage.input_node.edge_weights is not None:
        return stage.input_node.edge_weights, (*path, "input_node", "edge_weights")
    return stage.edge_weights, (*path, "edge_weights")


def _node(
    stage: StageSpec,
    path: SpecPath,
    name: str,
    role: Literal["input", "block", "output"],
    takes_stride: bool,
) -> Node:
    """A node as its own entry in `nodes`, its role's entry and the stage say, in this order."""
    own, own_path = stage.nodes.get(name), (*path, "nodes", name)
    if role == "block":
        end, base, base_path = None, stage.block, (*path, "block")
    else:
        key = f"{role}_node"
        end = base = stage.input_node if role == "input" else stage.output_node
        base_path = (*path, key) if key in stage.model_fields_set else path
    block = _block(base, base_path, own, own_path)
    if role == "input" and block is None:
        takes_stride = False
    return Node(
        name=name,
        role=role,
        block=block,
        aggregate="sum"
        if role == "input"
        else _first(own and own.aggregate, end and end.aggregate, stage.aggregate),
        width=block and _first(own and own.width, end and end.width, stage.width),
        stride=_first(
            own and own.stride, end and end.stride, stage.stride if takes_stride else None, 1
        ),
        path=own_path if own else (path if role == "block" else base_path),
    )


def _block(
    base: BlockSpec | NodeSpec | None, base_path: SpecPath, own: NodeSpec | None, own_path: SpecPath
) -> BlockCall | None:
    """A node's own block, laid over that of its stage where they are of one kind."""
    kind, params, path = base and base.kind, base.params if base else {}, base_path
    if own is not None and (own.kind is not None or own.params):
        params = own.params if own.kind not in (None, kind) else params | own.params
        kind, path = own.kind or kind, own_path
    if kind is None or kind == "identity":
        return None
    return BlockCall(kind, _sorted(params), path)


def _first(*values: T | None) -> T:
    return next(value for value in values if value is not None)


def _sorted(params: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple((key, _frozen(params[key])) for key in sorted(params))


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value
