"""Specs written in Python: the same keys as in YAML, checked by the same rules."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from graphspec.catalogue import verify_blocks
from graphspec.errors import Report
from graphspec.names import reserved_for
from graphspec.spec import Aggregate, NetworkSpec, NodeSpec, StageSpec
from graphspec.validate import validate
from graphspec.verify import verify

if TYPE_CHECKING:
    import networkx as nx

Values = Mapping[str, Any]
Kind = str | Values | BaseModel
"""A block, wiring, ... by its kind alone, as `kind("ws", k=4, p=0.75)`, or as a model."""

_NODE_ATTRIBUTES = ("block", "width", "stride", "aggregate")


def kind(name: str, /, **params: Any) -> Values:
    """What YAML writes as `{kind: name, ...}`: a block, a wiring, edge weights, a node.

    Example: `block=kind("bottleneck", expansion=4)`, `wiring=kind("ws", k=4, p=0.75)`
    """
    return {"kind": name, **params}


def network(name: str, *, input_shape: Sequence[int], seed: int | None = None) -> NetworkBuilder:
    """Starts a network spec; every step returns a new builder, so that variants share a start.

    Example:
        spec = (
            network("tiny", input_shape=(3, 32, 32), seed=7)
            .stem("conv_bn_relu", width=16)
            .stage("layer1", depth=3, width=16, block="basic", wiring="complete")
            .stage("layer2", depth=6, width=32, stride=2, block="separable_conv",
                   wiring=kind("ws", k=4, p=0.75), edge_weights="learned")
            .head("pooled_linear", num_classes=10)
            .build_spec()
        )
    """
    start = {"version": 1, "name": name, "seed": seed, "input_shape": tuple(input_shape)}
    return NetworkBuilder(_said(start))


@dataclass(frozen=True)
class NetworkBuilder:
    """A network spec in the making; `network` starts one. What is left out keeps its default."""

    values: Values

    def stem(
        self, kind: str, /, *, width: int | None = None, stride: int | None = None, **params: Any
    ) -> NetworkBuilder:
        """The layers before the first stage."""
        return self._with(
            stem={"kind": kind, **_said({"width": width, "stride": stride}), **params}
        )

    def stage(
        self,
        stage: str | StageSpec,
        /,
        *,
        width: int | None = None,
        depth: int | None = None,
        stride: int | None = None,
        inputs: Sequence[str] | None = None,
        block: Kind | None = None,
        input_node: Kind | None = None,
        output_node: Kind | None = None,
        wiring: Kind | None = None,
        aggregate: Aggregate | None = None,
        edge_weights: Kind | None = None,
        nodes: Mapping[str, Kind] | None = None,
    ) -> NetworkBuilder:
        """One more stage: a name and the keys of `StageSpec`, or a whole one."""
        said = _said(
            {
                "depth": depth,
                "width": width,
                "stride": stride,
                "inputs": inputs,
                "block": _with_kind(block),
                "input_node": _with_kind(input_node),
                "output_node": _with_kind(output_node),
                "wiring": _with_kind(wiring),
                "aggregate": aggregate,
                "edge_weights": _with_kind(edge_weights),
                "nodes": nodes and {name: _with_kind(node) for name, node in nodes.items()},
            }
        )
        if isinstance(stage, StageSpec):
            if said:
                raise TypeError(f"a whole stage needs no {', '.join(said)}; use model_copy")
            added: StageSpec | Values = stage
        else:
            added = {"name": stage, **said}
        return self._with(stages=(*self.values.get("stages", ()), added))

    def head(self, kind: str, /, *, num_classes: int, **params: Any) -> NetworkBuilder:
        """The layers after the last stage."""
        return self._with(head={"kind": kind, "num_classes": num_classes, **params})

    def limits(self, *, nodes: int | None = None, edges: int | None = None) -> NetworkBuilder:
        """The size from which a network counts as an accident."""
        return self._with(limits=_said({"nodes": nodes, "edges": edges}))

    def build_spec(self) -> NetworkSpec:
        """The spec, checked as one that was loaded.

        Raises:
            SpecError: with everything that is wrong with it.
        """
        report = Report()
        verify_blocks(self.values, report)
        spec = validate(self.values, report)
        if spec is not None:
            verify(spec, report)
        report.raise_errors()
        assert spec is not None
        return spec

    def _with(self, **values: Any) -> NetworkBuilder:
        return replace(self, values={**self.values, **values})


def from_networkx(
    graph: nx.DiGraph[Any],
    *,
    name: str,
    width: int,
    stride: int | None = None,
    inputs: Sequence[str] | None = None,
    block: Kind | None = None,
    input_node: Kind | None = None,
    output_node: Kind | None = None,
    aggregate: Aggregate | None = None,
    edge_weights: Kind | None = None,
) -> StageSpec:
    """A stage with the edges of an acyclic digraph, and its nodes in the order it has them.

    Nodes labelled `input` and `output` are the stage's; where they are missing, the stage's
    input feeds every node without predecessor, and every node without successor feeds the
    output. With several `inputs`, nodes with their names are the input nodes. Other labels
    become node names: 3 is `n3`, "Conv 1" is `conv_1`.

    Node attributes: block (a kind, or a mapping with parameters), width, stride, aggregate.
    Edge attribute: edge_weights.

    Raises:
        SpecError: with everything that is wrong with the graph.
    """
    report = Report()
    _verify_digraph(graph, report)
    report.raise_errors()
    input_names = tuple(inputs) if inputs and len(inputs) > 1 else ("input",)
    names = _node_names(graph, {*input_names, "output"})
    edges = _edges(graph, names, input_names, report)
    nodes = {
        name: values
        for label, name in names.items()
        if (values := _node_values(graph.nodes[label], name, report))
    }
    report.raise_errors()
    values = {
        "name": name,
        "width": width,
        "stride": stride,
        "inputs": inputs,
        "block": _with_kind(block),
        "input_node": _with_kind(input_node),
        "output_node": _with_kind(output_node),
        "wiring": {"kind": "explicit", "edges": edges},
        "aggregate": aggregate,
        "edge_weights": _with_kind(edge_weights),
        "nodes": nodes or None,
    }
    return _validated_stage(_said(values))


def _verify_digraph(graph: nx.DiGraph[Any], report: Report) -> None:
    import networkx as nx

    if not graph.is_directed():
        message = "the graph is undirected, so its edges do not say where features flow"
        advice = "direct it first, e.g. nx.DiGraph((min(e), max(e)) for e in graph.edges)"
        report.error("graph-undirected", (), message, advice)
    elif graph.is_multigraph():
        message = "the graph is a multigraph, but two nodes are joined by at most one edge"
        report.error("graph-multi", (), message, "use nx.DiGraph(graph)")
    elif not graph:
        report.error("graph-empty", (), "the graph has no nodes", "add nodes and edges")
    elif not nx.is_directed_acyclic_graph(graph):
        cycle = [source for source, *_ in nx.find_cycle(graph)]
        text = " -> ".join(map(str, [*cycle, cycle[0]]))
        advice = "remove or turn one of them: features flow from the input to the output only"
        report.error("cycle", (), f"edges form a cycle: {text}", advice)


def _node_names(graph: nx.DiGraph[Any], ends: set[str]) -> dict[Any, str]:
    """The name of every label; two labels never share one."""
    names = {label: label for label in graph if label in ends}
    taken = set(ends)
    for label in graph:
        if label in ends:
            continue
        name = stem = _as_name(label)
        number = 1
        while name in taken or reserved_for(name):
            number += 1
            name = f"{stem}_{number}"
        taken.add(name)
        names[label] = name
    return names


def _as_name(label: Hashable) -> str:
    text = re.sub(r"[^a-z0-9_]+", "_", str(label).lower()).strip("_")
    return (text if text[:1].isalpha() else f"n{text}")[:60]


def _edges(
    graph: nx.DiGraph[Any], names: Mapping[Any, str], inputs: Sequence[str], report: Report
) -> list[Values]:
    """All edges by target and source, both in topological order."""
    import networkx as nx

    position = {label: index for index, label in enumerate(graph)}
    position |= {"output": len(position)} if "output" in position else {}
    order = list(nx.lexicographical_topological_sort(graph, key=position.__getitem__))
    rank = {label: index for index, label in enumerate(order)}
    edges = list[Values]()
    for target in order:
        sources = sorted(graph.predecessors(target), key=rank.__getitem__)
        if not sources and names[target] not in inputs:
            edges += _edge_from_input(names[target], inputs, report)
        for source in sources:
            edges.append(_edge(names[source], names[target], graph.edges[source, target], report))
    if "output" not in graph:
        sinks = [label for label in order if not graph.out_degree(label)]
        edges += [{"source": names[label], "target": "output"} for label in sinks]
    return edges


def _edge_from_input(name: str, inputs: Sequence[str], report: Report) -> list[Values]:
    if len(inputs) == 1:
        return [{"source": inputs[0], "target": name}]
    report.error(
        "node-without-input",
        ("nodes", name),
        f"no edge leads to node {name!r}, and the stage has several inputs",
        f"add an edge to it from one of {', '.join(inputs)}",
    )
    return []


def _edge(source: str, target: str, attributes: Values, report: Report) -> Values:
    for key in attributes.keys() - {"edge_weights"}:
        report.error(
            "unknown-key",
            ("wiring", "edges", f"{source} -> {target}", key),
            f"edge attribute {key!r} means nothing here",
            "an edge may have edge_weights; remove the others",
        )
    weights = _with_kind(attributes.get("edge_weights"))
    return {"source": source, "target": target, **_said({"edge_weights": weights})}


def _node_values(attributes: Values, name: str, report: Report) -> Values:
    for key in sorted(attributes.keys() - {*_NODE_ATTRIBUTES}, key=str):
        report.error(
            "unknown-key",
            ("nodes", name, str(key)),
            f"node attribute {key!r} means nothing here",
            f"a node may have {', '.join(_NODE_ATTRIBUTES)}; remove the others",
        )
    own = {key: attributes.get(key) for key in _NODE_ATTRIBUTES if key != "block"}
    return {**(_with_kind(attributes.get("block")) or {}), **_said(own)}


def _validated_stage(stage: Values) -> StageSpec:
    """The stage, checked inside the smallest network around it."""
    around = {
        "version": 1,
        "name": "network",
        "input_shape": (1, 1, 1),
        "stem": {"kind": "identity"},
        "head": {"kind": "pooled_linear", "num_classes": 1},
    }
    report, findings = Report(), Report()
    data = {**around, "stages": [stage]}
    verify_blocks(data, findings)
    spec = validate(data, findings)
    report.extend(
        replace(finding, path=finding.path.removeprefix("stages[0]").removeprefix("."))
        for finding in findings.diagnostics
    )
    report.raise_errors()
    assert spec is not None
    return spec.stages[0]


def _said(values: Values) -> Values:
    """What was given: None means that the default stands."""
    return {key: value for key, value in values.items() if value is not None}


def _with_kind(value: Kind | None) -> Values | None:
    """The long form of a block, wiring, ...: a mapping with its kind."""
    if isinstance(value, NodeSpec):  # its fields are all optional, its parameters may be null
        fields = NodeSpec.model_fields.keys() | {"edge_weights"}
        given = value.model_dump().items()
        return {key: item for key, item in given if item is not None or key not in fields}
    if isinstance(value, BaseModel):
        return value.model_dump()
    return {"kind": value} if isinstance(value, str) else value
