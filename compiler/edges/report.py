"""What `graphc analyze` writes: arrays, figures in words, one page."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2 import Environment, StrictUndefined
from torch import fx

from compiler.edges.observations import as_table, observe
from compiler.edges.pictures import draw_edges
from compiler.files import RESOLVED_SPEC, adding_to
from compiler.training.mac_share import node_macs
from compiler.training.runs import TEST_BATCH, check_data, load_network, read_manifest
from graphspec import NetworkSpec, load
from runtime.edge_statistics import THRESHOLDS, Analysis, Sample, StageStatistics, analyze_edges
from runtime.routes import MacShare
from runtime.training.errors import StorageError
from runtime.training.processes import join
from runtime.training.sources import open_data

_TEMPLATE = Path(__file__).with_name("page.html.jinja")
_STYLE = """
body { font: 15px/1.5 sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; }
img { max-width: 100%; } table { border-collapse: collapse; } caption { text-align: left; }
td, th { padding: .15rem .8rem .15rem 0; text-align: right; }
td:first-child, th:first-child { text-align: left; white-space: pre; }"""


@dataclass(frozen=True)
class EdgeReport:
    """The analysis of a run's network on a data set."""

    name: str
    data: str
    spec: NetworkSpec
    model: fx.GraphModule
    analysis: Analysis

    @property
    def routed(self) -> dict[str, StageStatistics]:
        return {name: stage for name, stage in self.analysis.stages.items() if stage.is_routed}

    @property
    def thresholds(self) -> dict[str, dict[str, float]]:
        """The learned tau of every receiving node, by stage."""
        found: dict[str, dict[str, float]] = {}
        for name, stage in self.routed.items():
            tau = dict(self.model.named_parameters()).get(f"{name}.threshold")
            if tau is not None:
                receivers = stage.can_close.any(1).nonzero().flatten().tolist()
                names = [stage.nodes[node] for node in receivers]
                found[name] = dict(zip(names, tau.tolist(), strict=True))
        return found

    @property
    def samples(self) -> list[tuple[str, Sample]]:
        """Single images with what they are called."""
        shown = [("easiest", self.analysis.easiest), ("hardest", self.analysis.hardest)]
        found = [(role, sample) for role, sample in shown if sample is not None]
        return [*found, *((f"index {s.index}", s) for s in self.analysis.chosen)]


def analyze_run(
    folder: Path,
    *,
    data: str | None = None,
    data_dir: Path | None = None,
    samples: Sequence[int] = (),
    device: str = "auto",
    workers: int = 0,
) -> EdgeReport:
    """The edges of a finished run's network over a test set, as at inference.

    Raises:
        TrainingError: the folder is no finished run, or the data cannot be used.
    """
    manifest = read_manifest(folder)
    if manifest.get("status") != "complete":
        raise StorageError(f"{folder} is not finished; start its training command again")
    spec = load(folder / RESOLVED_SPEC)
    chosen = data or manifest["data"]["name"]
    dataset = open_data(chosen, data_dir or Path(manifest["data"]["folder"]), spec.input_shape)
    check_data(spec, dataset)
    processes = join(device)
    model = load_network(folder).to(processes.device)
    macs = MacShare(model, *node_macs(spec))
    batches = dataset.testing(TEST_BATCH, processes.device, workers)
    analysis = analyze_edges(model, batches, dataset.num_classes, macs, samples)
    return EdgeReport(spec.name, chosen, spec, model, analysis)


def as_data(report: EdgeReport) -> dict[str, Any]:
    """The figures, for `--json` and `summary.json`."""
    analysis = report.analysis
    thresholds = report.thresholds
    return {
        "name": report.name,
        "data": report.data,
        "images": analysis.correct.count,
        "accuracy": float(analysis.correct.mean),
        "mac_share": _moments(analysis.mac_share),
        "mac_share_by_class": [float(m.mean) for m in analysis.mac_share_by_class],
        "stages": {
            name: _stage_data(stage, thresholds.get(name, {}))
            for name, stage in analysis.stages.items()
        },
        "observations": observe(analysis),
        "samples": {
            role: {
                "index": sample.index,
                "label": sample.label,
                "prediction": sample.prediction,
                "loss": sample.loss,
            }
            for role, sample in report.samples
        },
    }


def _moments(moments: Any) -> dict[str, float]:
    return {"mean": float(moments.mean), "std": float(moments.std)}


def _stage_data(stage: StageStatistics, thresholds: Mapping[str, float]) -> dict[str, Any]:
    means, stds = stage.weights.mean[stage.edges], stage.weights.std[stage.edges]
    result: dict[str, Any] = {
        "nodes": list(stage.nodes),
        "edges": int(stage.edges.sum()),
        "is_routed": stage.is_routed,
        "mean_weight": {"lowest": float(means.min()), "highest": float(means.max())},
        "std_between_edges": float(means.std(correction=0)),
    }
    if not stage.is_routed:
        return result
    shares = stage.class_share[stage.edges]
    varying = shares[~shares.isnan()]
    result |= {
        "std_between_samples": {"mean": float(stds.mean()), "highest": float(stds.max())},
        "most_varying": _edge_name(stage, int(stage.weights.std.argmax())),
        "share_of_variance_between_classes": float(varying.mean()) if len(varying) else None,
    }
    if thresholds:
        removable = max(1, len(stage.nodes) - 1 - _num_inputs(stage))
        result |= {
            "thresholds": dict(thresholds),
            "closed_edges": float(stage.closed.mean[stage.can_close].mean()),
            "removed_nodes": float(stage.removed.mean.sum()) / removable,
            "closed_edges_by_class": [float(m.mean) for m in stage.closed_by_class],
            "removed_nodes_by_class": [float(m.mean) for m in stage.removed_by_class],
            "closed_edges_at": _at(stage.closed_at),
            "removed_nodes_at": _at(stage.removed_at),
        }
    return result


def _at(moments: Sequence[Any]) -> dict[str, float]:
    return {f"{tau:g}": float(m.mean) for tau, m in zip(THRESHOLDS, moments, strict=True)}


def _num_inputs(stage: StageStatistics) -> int:
    return int((~stage.edges.any(1)).sum())


def _edge_name(stage: StageStatistics, place: int) -> str:
    target, source = divmod(place, len(stage.nodes))
    return f"{stage.nodes[source]} -> {stage.nodes[target]}"


def describe(report: EdgeReport) -> list[str]:
    """The figures in lines, each saying what it is a figure of."""
    content = as_data(report)
    share = content["mac_share"]
    lines = [
        f"{report.name} on {report.data}: {content['images']:,} images, "
        f"accuracy {content['accuracy']:.2%}",
        f"multiply-adds needed: {share['mean']:.2%} of the whole network, "
        f"standard deviation over images {share['std']:.2%}",
    ]
    for name, stage in content["stages"].items():
        lines += ["", f"{name}: {len(stage['nodes'])} nodes, {stage['edges']} edges"]
        lines += [f"  {line}" for line in _lines(stage)]
    if not report.routed:
        lines += ["", "no edge is routed: all images have the same weights"]
    return lines


def describe_observations(report: EdgeReport) -> list[str]:
    """The stages beside each other, a line a figure."""
    table = as_table(observe(report.analysis))
    first = max(len(row[0]) for row in table)
    width = max(9, *(len(cell) for row in table for cell in row[1:]))
    return [
        " ".join([f"{head:{first}}", *(f"{cell:>{width}}" for cell in cells)]).rstrip()
        for head, *cells in table
    ]


def _lines(stage: dict[str, Any]) -> list[str]:
    weight = stage["mean_weight"]
    lines = [
        f"between edges: mean weights {weight['lowest']:.3f} .. {weight['highest']:.3f}, "
        f"standard deviation {stage['std_between_edges']:.4f}"
    ]
    if stage["is_routed"]:
        std = stage["std_between_samples"]
        between = stage["share_of_variance_between_classes"]
        lines.append(
            f"between images: standard deviation of an edge {std['mean']:.4f} on average, at most "
            f"{std['highest']:.4f} ({stage['most_varying']})"
        )
        if between is not None:
            lines.append(f"between classes: {between:.0%} of that variance")
    if "thresholds" in stage:
        taus = stage["thresholds"].values()
        lines.append(
            f"under the learned tau ({min(taus):.3f} .. {max(taus):.3f}): "
            f"{stage['closed_edges']:.2%} of edges closed, "
            f"{stage['removed_nodes']:.2%} of nodes removed"
        )
        lines.append("if every tau were (scores as they are): " + _grid(stage))
    return lines


def _grid(stage: dict[str, Any]) -> str:
    chosen = ("0.5", "0.7", "0.9")
    return "; ".join(
        f"{tau}: {stage['closed_edges_at'][tau]:.0%} closed, "
        f"{stage['removed_nodes_at'][tau]:.0%} removed"
        for tau in chosen
    )


def arrays(report: EdgeReport) -> dict[str, Any]:
    """Everything that was measured, for `edges.npz`: names are stage/what."""
    found: dict[str, Any] = {
        "thresholds": np.array(THRESHOLDS),
        "mac_share_by_class": np.array([float(m.mean) for m in report.analysis.mac_share_by_class]),
    }
    for name, stage in report.analysis.stages.items():
        values = {
            "nodes": np.array(stage.nodes),
            "edges": stage.edges.numpy(),
            "weight_mean": stage.weights.mean.numpy(),
            "weight_std": stage.weights.std.numpy(),
            "weight_mean_by_class": torch.stack([m.mean for m in stage.by_class]).numpy(),
            "weight_std_by_class": torch.stack([m.std for m in stage.by_class]).numpy(),
        }
        if stage.is_routed:
            values |= {
                "score_mean": stage.scores.mean.numpy(),
                "score_std": stage.scores.std.numpy(),
                "closed": stage.closed.mean.numpy(),
                "removed": stage.removed.mean.numpy(),
                "closed_at": np.array([float(m.mean) for m in stage.closed_at]),
                "removed_at": np.array([float(m.mean) for m in stage.removed_at]),
            }
        for role, sample in report.samples:
            values[f"sample {role}"] = sample.weights[name].numpy()
        found |= {f"{name}/{what}": value for what, value in values.items()}
    return found


def write_report(report: EdgeReport, folder: Path) -> list[Path]:
    """Writes `summary.json`, `edges.npz`, every picture as .png and .svg, and `index.html`."""
    content = {"schema_version": 1, **as_data(report)}
    with adding_to(folder) as scratch:
        summary, archive, page = (scratch / n for n in ("summary.json", "edges.npz", "index.html"))
        summary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        np.savez_compressed(archive, **arrays(report))
        pictures = draw_edges(report.analysis, report.samples, report.thresholds, scratch)
        page.write_text(_page(report, pictures), encoding="utf-8")
        both = [path for _, svg in pictures for path in (svg, svg.with_suffix(".png"))]
    return [folder / path.name for path in (page, summary, archive, *both)]


def _page(report: EdgeReport, pictures: Sequence[tuple[str, Path]]) -> str:
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    template = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).from_string(_TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        title=f"Edges of {report.name} on {report.data}",
        policy=f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'",
        style=_STYLE,
        lines=describe(report),
        content=as_data(report),
        observations=as_table(observe(report.analysis)),
        pictures=[
            (caption, base64.b64encode(svg.read_bytes()).decode()) for caption, svg in pictures
        ],
    )
