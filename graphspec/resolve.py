"""The resolved form of a spec: every random draw as edges, every default written out.

It means the same graph on any machine, whatever generates random graphs there.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from graphspec.build import build, default_stem_stride
from graphspec.catalogue import CATALOGUE
from graphspec.graph import StageGraph
from graphspec.spec import BlockSpec, EndNodeSpec, NetworkSpec, NodeSpec, StageSpec
from graphspec.wiring.explicit import Explicit

Values = dict[str, Any]


def resolve(spec: NetworkSpec) -> NetworkSpec:
    """The spec that leaves nothing open; it is its own resolved form.

    Raises:
        SpecError: with everything that is wrong with the spec.
    """
    graph = build(spec)
    stem, head = spec.stem, spec.head
    return NetworkSpec.model_validate(
        {
            "version": spec.version,
            "name": spec.name,
            "seed": spec.seed,
            "input_shape": list(spec.input_shape),
            "stem": {
                "kind": stem.kind,
                **({} if stem.width is None else {"width": stem.width}),
                "stride": stem.stride or default_stem_stride(stem.kind),
                **CATALOGUE.stems[stem.kind].complete(stem.params),
            },
            "stages": [
                _stage(stage, wired) for stage, wired in zip(spec.stages, graph.stages, strict=True)
            ],
            "head": {
                "kind": head.kind,
                "num_classes": head.num_classes,
                **CATALOGUE.heads[head.kind].complete(head.params),
            },
            "limits": spec.limits.model_dump(),
        }
    )


def content_hash(spec: NetworkSpec) -> str:
    """Names a network by what it is: 16 hex digits of the sha256 of its resolved form.

    The seed and the limits do not count: with the edges drawn, they change nothing.
    """
    content = resolve(spec).model_dump(mode="json", exclude={"seed", "limits"})
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _stage(stage: StageSpec, wired: StageGraph) -> Values:
    is_listed = isinstance(stage.wiring, Explicit) or stage.wiring.is_random
    values: Values = {"name": stage.name}
    if not is_listed:
        values["depth"] = stage.depth
    values |= {"width": stage.width, "stride": stage.stride, "inputs": list(wired.inputs)}
    if stage.block is not None:
        values["block"] = _block(stage.block)
    values |= {
        "input_node": _end_node(stage.input_node),
        "output_node": _end_node(stage.output_node),
        "wiring": _edges(stage, wired) if is_listed else stage.wiring.model_dump(mode="json"),
        "aggregate": stage.aggregate,
        "edge_weights": stage.edge_weights.model_dump(),
    }
    if stage.nodes:
        named = [node.name for node in wired.nodes if node.name in stage.nodes]
        inputs = {node.name for node in wired.nodes if node.role == "input"}
        values["nodes"] = {
            name: _node(stage.nodes[name], stage.input_node if name in inputs else stage.block)
            for name in named
        }
    return values


def _edges(stage: StageSpec, wired: StageGraph) -> Values:
    """Explicit wiring; an edge names its weights only where the spec did so, edge by edge."""
    names = [node.name for node in wired.nodes]
    own = dict[tuple[str, str], Any]()
    if isinstance(stage.wiring, Explicit):
        own = {(edge.source, edge.target): edge.edge_weights for edge in stage.wiring.edges}
    edges = list[Any]()
    for edge in wired.edges:
        source, target = names[edge.source], names[edge.target]
        if weights := own.get((source, target)):
            weights = weights.model_dump()
            edges.append({"source": source, "target": target, "edge_weights": weights})
        else:
            edges.append([source, target])
    return {"kind": "explicit", "edges": edges}


def _block(block: BlockSpec) -> Values:
    return {"kind": block.kind, **CATALOGUE.blocks[block.kind].complete(block.params)}


def _end_node(node: EndNodeSpec) -> Values:
    values: Values = {"kind": node.kind, **_given(node)}
    if node.edge_weights is not None:
        values["edge_weights"] = node.edge_weights.model_dump()
    return values | CATALOGUE.blocks[node.kind].complete(node.params)


def _node(node: NodeSpec, base: BlockSpec | NodeSpec | None) -> Values:
    """A node's exceptions: parameters of the stage's own block stay as they are, laid over it."""
    values = _given(node)
    if node.kind is None and base is not None and base.kind is not None:
        return values | CATALOGUE.blocks[base.kind].typed(node.params)
    if node.kind is None:
        return values
    entry = CATALOGUE.blocks[node.kind]
    if base is not None and node.kind == base.kind:
        return {"kind": node.kind} | values | entry.typed(node.params)
    return {"kind": node.kind} | values | entry.complete(node.params)


def _given(node: NodeSpec) -> Values:
    values = {"width": node.width, "stride": node.stride, "aggregate": node.aggregate}
    return {key: value for key, value in values.items() if value is not None}
