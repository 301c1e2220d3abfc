"""A network graph as text for graphviz and for mermaid: they lay it out, we only name it."""

from __future__ import annotations

from collections.abc import Mapping

from graphspec.graph import Edge, NetworkGraph, Node, StageGraph

_DOT_STYLES: Mapping[str, str] = {"fixed": "solid", "learned": "dashed", "routed": "dotted"}
_DOT_BREAK = r"\n"
_MERMAID_ARROWS: Mapping[str, str] = {"fixed": "-->", "learned": "==>", "routed": "-.->"}


def to_dot(graph: NetworkGraph, is_whole: bool = True) -> str:
    """DOT: one cluster a stage; learned edges dashed, routed edges dotted.

    Stem and head are left out where the graph is only a part of a network.
    """
    lines = [
        f'digraph "{graph.name}" {{',
        "  rankdir=LR;",
        '  node [shape=box, style=rounded, fontname="Helvetica"];',
    ]
    if is_whole:
        lines += [
            f'  "stem" [label="stem\\n{graph.stem.kind}"];',
            f'  "head" [label="head\\n{graph.head.kind}"];',
        ]
    for stage in graph.stages:
        lines += [f'  subgraph "cluster_{stage.name}" {{', f'    label="{stage.name}";']
        lines += [
            f'    "{stage.name}.{node.name}" [label="{_label(node, _DOT_BREAK)}"];'
            for node in stage.nodes
        ]
        lines += [
            f'    "{source}" -> "{target}" [style={_DOT_STYLES[edge.weights.kind]}];'
            for edge in stage.edges
            for source, target in [_ends(stage, edge)]
        ]
        lines.append("  }")
    if is_whole:
        lines += [f'  "{source}" -> "{target}";' for source, target in _between(graph)]
    return "\n".join([*lines, "}"]) + "\n"


def to_mermaid(graph: NetworkGraph, is_whole: bool = True) -> str:
    """A mermaid flow chart, for READMEs; learned edges thick, routed edges dotted.

    Stem and head are left out where the graph is only a part of a network. Identifiers begin
    with an underscore: a stage may be called `end`, which mermaid keeps for itself.
    """
    lines = ["flowchart LR"]
    if is_whole:
        lines.append(f'  _stem["stem<br>{graph.stem.kind}"]')
    for stage in graph.stages:
        lines += [f'  subgraph _{stage.name}["{stage.name}"]', "    direction LR"]
        lines += [
            f'    _{stage.name}.{node.name}["{_label(node, "<br>")}"]' for node in stage.nodes
        ]
        lines += [
            f"    _{source} {_MERMAID_ARROWS[edge.weights.kind]} _{target}"
            for edge in stage.edges
            for source, target in [_ends(stage, edge)]
        ]
        lines.append("  end")
    if is_whole:
        lines.append(f'  _head["head<br>{graph.head.kind}"]')
        lines += [f"  _{source} --> _{target}" for source, target in _between(graph)]
    return "\n".join(lines) + "\n"


def _label(node: Node, new_line: str) -> str:
    parts = [node.name]
    if node.block:
        parts.append(node.block.kind)
    if node.stride != 1:
        parts.append(f"/{node.stride}")
    return new_line.join(parts)


def _ends(stage: StageGraph, edge: Edge) -> tuple[str, str]:
    source, target = stage.nodes[edge.source], stage.nodes[edge.target]
    return f"{stage.name}.{source.name}", f"{stage.name}.{target.name}"


def _between(graph: NetworkGraph) -> list[tuple[str, str]]:
    """The edges between stem, stages and head."""
    outputs = {"stem": "stem"}
    edges: list[tuple[str, str]] = []
    for stage in graph.stages:
        edges += [
            (outputs[source], f"{stage.name}.{node.name}")
            for source, node in zip(stage.inputs, stage.nodes, strict=False)
        ]
        outputs[stage.name] = f"{stage.name}.{stage.nodes[-1].name}"
    return [*edges, (outputs[graph.stages[-1].name], "head")]
