"""What came out of an experiment: means over seeds, paired differences, a table, a picture."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from compiler.complexity import count
from compiler.experiments.plan import Experiment, Run
from compiler.files import adding_to
from runtime.training.engine import TOTAL


@dataclass(frozen=True)
class Measurement:
    """One network with one seed, under one inference mode if several are compared."""

    row: str
    network: str
    seed: int
    accuracy: float
    """or average precision"""
    params: int
    conv_macs: int
    step_ms: float
    folder: str


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation; the latter is None for a single value."""

    mean: float
    std: float | None
    count: int

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        std = statistics.stdev(values) if len(values) > 1 else None
        return Spread(statistics.fmean(values), std, len(values))

    def text(self, digits: int, *, scale: float = 1.0, signed: bool = False) -> str:
        sign = "+" if signed else ""
        mean = f"{self.mean * scale:{sign},.{digits}f}"
        return mean if self.std is None else f"{mean} ± {self.std * scale:,.{digits}f}"


@dataclass(frozen=True)
class Row:
    """A network over its seeds; `difference` is to the first network's run of the same seed."""

    name: str
    seeds: tuple[int, ...]
    accuracy: Spread
    difference: Spread | None
    params: Spread
    conv_macs: Spread
    step_ms: float

    def cells(self) -> tuple[str, ...]:
        """In the order of `columns`."""
        return (
            self.name,
            str(len(self.seeds)),
            self.accuracy.text(2, scale=100),
            "" if self.difference is None else self.difference.text(2, scale=100, signed=True),
            f"{self.params.mean:,.0f}",
            f"{self.conv_macs.mean:,.0f}",
            f"{self.step_ms:.1f}",
        )


@dataclass(frozen=True)
class Results:
    """All measurements of an experiment, and its rows in the order of the file."""

    experiment: Experiment
    measurements: tuple[Measurement, ...]
    rows: tuple[Row, ...]
    curves: dict[str, list[list[float]]]
    """test accuracy, or average precision, by epoch: one list a seed, by network"""
    losses: dict[str, dict[str, list[float]]]
    """the training loss and its terms by epoch, means over seeds, by network"""


def columns(experiment: Experiment) -> tuple[str, ...]:
    """The head of the table."""
    score, _ = experiment.score
    return (
        *("network", "seeds", f"{score} (%)", "difference (points)"),
        *("params", "conv MACs", "step (ms)"),
    )


def measure(run: Run, scores: dict[str, float]) -> list[Measurement]:
    """The measurements of a finished run: one, or one a mode."""
    cost = count(run.job.spec)
    return [
        Measurement(
            row=f"{run.network}, {mode}" if mode else run.network,
            network=run.network,
            seed=run.seed,
            accuracy=accuracy,
            params=cost.params,
            conv_macs=cost.conv_macs,
            step_ms=step_ms(run),
            folder=str(run.folder),
        )
        for mode, accuracy in scores.items()
    ]


def step_ms(run: Run) -> float:
    """Time of a training step in milliseconds: the median over epochs, evaluation included."""
    history = _history(run)
    before = [{"seconds": 0.0, "step": 0.0}, *history]
    times = [
        (after["seconds"] - start["seconds"]) / (after["step"] - start["step"])
        for start, after in zip(before, history, strict=False)
    ]
    return 1000 * statistics.median(times)


def _history(run: Run) -> list[dict[str, float]]:
    lines = (run.folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def summarize(
    experiment: Experiment, runs: Sequence[Run], measurements: Sequence[Measurement]
) -> Results:
    """Rows and curves of everything that finished."""
    by_row: dict[str, dict[int, Measurement]] = {}
    for measurement in measurements:
        by_row.setdefault(measurement.row, {})[measurement.seed] = measurement
    order = {network.name: index for index, network in enumerate(experiment.networks)}
    names = sorted(by_row, key=lambda name: order[next(iter(by_row[name].values())).network])
    first = by_row[names[0]] if names else {}
    rows = tuple(_row(name, by_row[name], first, is_first=name == names[0]) for name in names)
    histories: dict[str, list[list[dict[str, float]]]] = {}
    for run in runs:
        if run.is_finished:
            histories.setdefault(run.network, []).append(_history(run))
    _, entry = experiment.score
    curves = {
        network: [[record[entry] for record in history] for history in found]
        for network, found in histories.items()
    }
    losses = {network: _losses(found) for network, found in histories.items()}
    return Results(experiment, tuple(measurements), rows, curves, losses)


def _losses(histories: list[list[dict[str, float]]]) -> dict[str, list[float]]:
    names = [name for name in histories[0][0] if name == TOTAL or name.startswith("loss_")]
    by_epoch = list(zip(*histories, strict=True))
    return {
        name: [statistics.fmean(record[name] for record in records) for records in by_epoch]
        for name in names
    }


def _row(
    name: str, by_seed: dict[int, Measurement], first: dict[int, Measurement], *, is_first: bool
) -> Row:
    found = list(by_seed.values())
    pairs = [by_seed[seed].accuracy - first[seed].accuracy for seed in by_seed if seed in first]
    return Row(
        name=name,
        seeds=tuple(by_seed),
        accuracy=Spread.of([m.accuracy for m in found]),
        difference=None if is_first or not pairs else Spread.of(pairs),
        params=Spread.of([m.params for m in found]),
        conv_macs=Spread.of([m.conv_macs for m in found]),
        step_ms=statistics.median(m.step_ms for m in found),
    )


def as_data(results: Results) -> dict[str, Any]:
    """For `results.json` and `--json`."""
    return {
        "name": results.experiment.name,
        "title": results.experiment.title,
        "data": results.experiment.data,
        "rows": [asdict(row) for row in results.rows],
        "runs": [asdict(measurement) for measurement in results.measurements],
    }


def as_csv(results: Results) -> str:
    """One line a measurement."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    fields = list(Measurement.__dataclass_fields__)
    writer.writerow(fields)
    writer.writerows([getattr(m, field) for field in fields] for m in results.measurements)
    return file.getvalue()


def as_markdown(results: Results) -> str:
    """The table with what is needed to read it."""
    head = columns(results.experiment)
    lines = [
        f"# {results.experiment.title}",
        "",
        "| " + " | ".join(head) + " |",
        "|---" + "|---:" * (len(head) - 1) + "|",
        *("| " + " | ".join(row.cells()) + " |" for row in results.rows),
        "",
        *explanation(results),
    ]
    return "\n".join(lines) + "\n"


def explanation(results: Results) -> list[str]:
    """What the columns mean, in sentences."""
    first = results.rows[0].name if results.rows else ""
    lines = [
        "Mean ± sample standard deviation over seeds. "
        + _tested(results.experiment)
        + f", after the last epoch. Difference: to `{first}`, seed by seed. "
        "Step: median over epochs and seeds, evaluation included."
    ]
    unsure = [row.name for row in results.rows if _is_unsure(row)]
    if unsure:
        listed = ", ".join(f"`{name}`" for name in unsure)
        lines.append(
            f"Not told apart from `{first}` by these seeds (paired t-test, two-sided, 5 %): "
            f"{listed}."
        )
    return lines


def _tested(experiment: Experiment) -> str:
    if experiment.task == "detection":
        return f"AP: COCO's, over IoU 0.5 to 0.95, on the {experiment.part or 'val'} images"
    return "Accuracy: of the test set"


def _is_unsure(row: Row) -> bool:
    """Whether a paired t-test at 5 % leaves it open that the row differs from the first."""
    from scipy.special import stdtrit

    difference = row.difference
    if difference is None or difference.std is None:
        return difference is not None
    if difference.std == 0:
        return difference.mean == 0
    score = abs(difference.mean) / (difference.std / math.sqrt(difference.count))
    return score < float(stdtrit(difference.count - 1, 0.975))


def draw_results(results: Results, stem: Path) -> None:
    """`stem`.png and .svg: accuracies of all seeds, and learning curves."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "graphc", "font.size": 9}):
        figure = _figure(results)
        figure.savefig(stem.with_suffix(".png"), dpi=160)
        figure.savefig(stem.with_suffix(".svg"), metadata={"Date": None})


def _figure(results: Results) -> Any:
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    rows = results.rows
    height = max(2.8, 0.42 * len(rows) + 1.6)
    has_terms = any(len(terms) > 1 for terms in results.losses.values())
    figure = Figure(figsize=(13.5 if has_terms else 9.5, height), layout="constrained")
    widths = (1.15, 1, 1) if has_terms else (1.15, 1)
    left, right, *more = figure.subplots(1, len(widths), width_ratios=widths)
    for axes in more:
        _draw_losses(axes, results.losses)
    for position, row in enumerate(rows):
        found = [100 * m.accuracy for m in results.measurements if m.row == row.name]
        left.plot(found, [position] * len(found), "o", ms=4, color=f"C{position}", alpha=0.55)
        spread = None if row.accuracy.std is None else 100 * row.accuracy.std
        mean = 100 * row.accuracy.mean
        left.errorbar(mean, position, xerr=spread, fmt="|", ms=14, color=f"C{position}", capsize=3)
    left.set_yticks(range(len(rows)), [row.name for row in rows])
    left.set_ylim(len(rows) - 0.5, -0.5)
    label = columns(results.experiment)[2]
    left.set_xlabel(label)
    left.set_title("each seed; mean ± standard deviation", fontsize=9)
    left.grid(axis="x", alpha=0.3)
    for index, (network, curves) in enumerate(results.curves.items()):
        epochs = range(1, len(curves[0]) + 1)
        means = [100 * statistics.fmean(values) for values in zip(*curves, strict=True)]
        marker = "o" if len(means) == 1 else None
        right.plot(epochs, means, label=network, color=f"C{index}", lw=1.4, marker=marker, ms=4)
    right.set_xlabel("epoch")
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.set_ylabel(f"{label}, val images" if results.experiment.part else label)
    right.set_title("while training, mean over seeds", fontsize=9)
    right.grid(alpha=0.3)
    if results.curves:
        right.legend(fontsize=8)
    figure.suptitle(results.experiment.title, fontsize=10)
    return figure


def _draw_losses(axes: Any, losses: dict[str, dict[str, list[float]]]) -> None:
    """The training loss in thick lines, its terms in thin ones."""
    from matplotlib.ticker import MaxNLocator

    styles = ("-", "--", ":", "-.", (0, (6, 2, 1, 2, 1, 2)))
    for index, terms in enumerate(losses.values()):
        for (name, values), style in zip(terms.items(), styles, strict=False):
            epochs = range(1, len(values) + 1)
            width = 1.6 if name == TOTAL else 0.9
            label = name.removeprefix("loss_") if index == 0 else None
            axes.plot(epochs, values, color=f"C{index}", ls=style, lw=width, label=label)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title("training loss and its terms, mean over seeds", fontsize=9)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)


def write_results(results: Results, folder: Path) -> list[Path]:
    """`results.json`, `.csv`, `.md`, `.png` and `.svg` in `folder`."""
    texts = {
        "json": json.dumps({"schema_version": 1, **as_data(results)}, indent=2) + "\n",
        "csv": as_csv(results),
        "md": as_markdown(results),
    }
    with adding_to(folder) as scratch:
        for suffix, text in texts.items():
            (scratch / f"results.{suffix}").write_text(text, encoding="utf-8")
        draw_results(results, scratch / "results")
    return [folder / f"results.{suffix}" for suffix in (*texts, "png", "svg")]
