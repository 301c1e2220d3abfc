"""A network graph as plain data, for `graph.json` and `graphc inspect --as json`."""

from __future__ import annotations

from typing import Any

from graphspec.graph import BlockCall, Edge, NetworkGraph, Node, StageGraph

SCHEMA_VERSION = 1


def graph_data(graph: NetworkGraph) -> dict[str, Any]:
    """The graph with all names, shapes and edges; nodes are called by their full names."""
    return {
        "schema_version": SCHEMA_VERSION,
        "name": graph.name,
        "input_shape": list(graph.input_shape),
        "stem": {
            **_block(graph.stem),
            "width": graph.stem_width,
            "stride": graph.stem_stride,
            "out_shape": _list(graph.stem_shape),
        },
        "stages": [stage_data(stage) for stage in graph.stages],
        "head": {**_block(graph.head), "num_classes": graph.num_classes},
    }


def stage_data(stage: StageGraph) -> dict[str, Any]:
    """One stage: its nodes in topological order, its edges by target and source."""
    return {
        "name": stage.name,
        "inputs": list(stage.inputs),
        "nodes": [_node(stage, node) for node in stage.nodes],
        "edges": [_edge(stage, edge) for edge in stage.edges],
    }


def _node(stage: StageGraph, node: Node) -> dict[str, Any]:
    router = node.router and {
        "kind": node.router.kind,
        "targets": [f"{stage.name}.{stage.nodes[target].name}" for target in node.router.targets],
    }
    return {
        "name": f"{stage.name}.{node.name}",
        "role": node.role,
        "block": node.block and _block(node.block),
        "aggregate": node.aggregate,
        "width": node.width,
        "stride": node.stride,
        "router": router,
        "in_shape": _list(node.in_shape),
        "out_shape": _list(node.out_shape),
    }


def _edge(stage: StageGraph, edge: Edge) -> dict[str, Any]:
    return {
        "source": f"{stage.name}.{stage.nodes[edge.source].name}",
        "target": f"{stage.name}.{stage.nodes[edge.target].name}",
        "weights": edge.weights.model_dump(mode="json"),
    }


def _block(block: BlockCall) -> dict[str, Any]:
    return {"kind": block.kind, "params": dict(block.params)}


def _list(shape: tuple[int, ...] | None) -> list[int] | None:
    return None if shape is None else list(shape)
