"""The folder that `graphc compile` writes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import torch
from torch import fx

from compiler.cli._output import json_text, render_table
from compiler.complexity import count_program, outline
from compiler.costs import cost_data, cost_table
from compiler.drawing import render_svg
from compiler.files import RESOLVED_SPEC, replacing
from compiler.graph_data import graph_data
from compiler.listing import code_listing, fx_listing
from compiler.lower import lower
from graphspec import NetworkGraph, NetworkSpec, content_hash, dump, format_graph, resolve

SCHEMA_VERSION = 1


def write_artifact(
    spec: NetworkSpec,
    graph: NetworkGraph,
    folder: Path,
    manifest_name: str,
    backends: Sequence[str] = (),
    trained: fx.GraphModule | None = None,
) -> dict[str, Any]:
    """Writes the folder, replacing an earlier one; returns its manifest.

    `backends` add what they write, of the network `trained`, or of one whose initial weights are
    drawn under the spec's seed.

    Raises:
        ClickException: a backend cannot write this network.
    """
    model = outline(graph)
    complexity = count_program(graph, model)
    contents = {
        RESOLVED_SPEC: dump(resolve(spec)),
        "graph.json": json_text(graph_data(graph)),
        "graph.txt": format_graph(graph),
        "fx.txt": fx_listing(model),
        "code.txt": code_listing(model),
        "cost.json": json_text({"schema_version": SCHEMA_VERSION, **cost_data(complexity)}),
        "cost.txt": render_table(cost_table(complexity)),
        "graph.svg": render_svg(graph),
    }
    manifest: dict[str, Any] = {
        "name": spec.name,
        "spec_hash": content_hash(spec),
        "params": complexity.params,
        "conv_macs": complexity.conv_macs,
        "macs": complexity.macs,
        "versions": {name: version(name) for name in ("graphc-nn", "torch")},
        "files": {
            name: hashlib.sha256(text.encode()).hexdigest() for name, text in contents.items()
        },
    }
    with replacing(folder) as temporary:
        temporary.mkdir()
        for path in _emit(spec, graph, temporary, backends, trained):
            manifest["files"][path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
        contents[manifest_name] = json_text({"schema_version": SCHEMA_VERSION, **manifest})
        for name, text in contents.items():
            (temporary / name).write_text(text, encoding="utf-8")
    return manifest


def _emit(
    spec: NetworkSpec,
    graph: NetworkGraph,
    folder: Path,
    backends: Sequence[str],
    trained: fx.GraphModule | None,
) -> list[Path]:
    if not backends:
        return []
    from compiler.backends import BACKENDS, EmitError

    with torch.random.fork_rng(devices=()):
        torch.manual_seed(spec.seed)
        model = trained or lower(graph)
    paths: list[Path] = []
    for name in backends:
        try:
            paths += BACKENDS[name]().emit(spec, graph, model, folder)
        except EmitError as failure:
            raise click.ClickException(str(failure)) from failure
    return paths
