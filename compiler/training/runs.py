"""From a spec, a recipe and data to a run folder, and from a run folder to its figures.

A run folder opens without this package: `spec.resolved.yaml`, `recipe.yaml`, `run.json`,
`weights.safetensors`, `metrics.jsonl`, `metrics.csv`, `graph.svg`, `checkpoint/`.
"""

from __future__ import annotations

import fcntl
import json
import platform
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, get_args

import torch
from torch import fx, nn

from compiler.analysis import analyze
from compiler.files import RESOLVED_SPEC
from compiler.training.job import Job
from compiler.training.mac_share import node_macs
from compiler.training.recipes import dump_recipe, load_recipe
from compiler.training.tasks import SETTINGS, TEST_BATCH, check_data, load_network
from graphspec import content_hash, dump, load, resolve
from runtime.gating import Rule, gates, inference, set_inference
from runtime.training.batches import Dataset, Share, TrainingBatches
from runtime.training.budget import MacBudget
from runtime.training.checkpoint import save_weights, write_atomically, write_metrics
from runtime.training.engine import PLAIN, Engine, Execution, Observer, Record
from runtime.training.errors import StorageError
from runtime.training.evaluation import reestimate_batch_norm
from runtime.training.processes import Processes, join
from runtime.training.tensorboard import TensorBoard

__all__ = [
    "TEST_BATCH",
    "Job",
    "Outcome",
    "check_data",
    "evaluate_run",
    "load_network",
    "read_manifest",
    "train",
]

REESTIMATION_STEPS = 100
"""Batches for batch-norm statistics under another inference rule."""


@dataclass(frozen=True)
class Outcome:
    """What a run came to; `trained` is False where it was complete before."""

    folder: Path
    figures: dict[str, float]
    """accuracy; or AP and its relatives"""
    history: list[Record]
    seconds: float
    trained: bool


def train(
    job: Job,
    folder: Path,
    observer: Observer,
    *,
    device: str = "auto",
    execution: Execution = PLAIN,
    accumulate: int = 1,
    workers: int = 0,
    download: bool = False,
    tensorboard: bool = False,
) -> Outcome:
    """Trains to the end, from where an earlier attempt in `folder` stopped.

    Raises:
        SpecError: the spec is wrong, or does not fit the data.
        TrainingError: data, storage or numbers failed; the last good checkpoint stays.
    """
    graph, _ = analyze(job.spec)
    processes = join(device)
    try:
        with _locked(folder, processes):
            finished = processes.from_first(_finished(folder, job, processes))
            if finished:
                return finished
            data = SETTINGS[job.task].open(job, download=download)
            for note in data.notes:
                observer.say(note)
            if processes.is_first:
                _write_head(folder, job)
                _draw(graph, folder)
                if tensorboard:
                    observer = TensorBoard(observer, folder / "tensorboard")
            share = Share(job.recipe.batch_size, processes.rank, processes.world, accumulate)
            run = _Run(job, folder, data, share, processes, execution, workers)
            return run.train(observer)
    finally:
        processes.close()


class _Run:
    """One attempt at a job: the network, its batches, and the files it leaves."""

    def __init__(
        self,
        job: Job,
        folder: Path,
        data: Dataset[Any],
        share: Share,
        processes: Processes,
        execution: Execution,
        workers: int,
    ) -> None:
        self.job, self.folder, self.data = job, folder, data
        self.processes, self.execution = processes, execution
        self.setting = SETTINGS[job.task]
        batches = data.training(job.recipe, share, job.seed, processes.device, workers)
        self.task = self.setting.task(job, data, batches, processes, workers)

    def train(self, observer: Observer) -> Outcome:
        torch.manual_seed(self.job.seed)
        model, said = self.setting.build(self.job, self.data)
        if said:
            observer.say(said)
        is_literal = any(gate.rule == "literal" for gate in gates(model))
        if is_literal:  # until its batch-norm statistics are estimated, see below
            set_inference(model, mode="soft")
        engine = Engine(
            model,
            self.job.recipe,
            self.task,
            self.folder / "checkpoint",
            _Recorder(observer, self.folder, self.processes),
            identity=self.job.identity,
            processes=self.processes,
            execution=self.execution,
            budget=self._budget(model),
        )
        history = engine.fit()
        figures = self.setting.select(history[-1])
        if is_literal:
            set_inference(engine.result, mode="masked")
            _reestimate(engine.result, self.task.batches, self.job)
            self.processes.share_buffers(engine.result)
            figures = self.setting.select(self.task.evaluate(engine.result, self.processes))
        seconds = round(engine.seconds, 3)
        if self.processes.is_first:
            self._write_result(engine, figures, seconds)
        return Outcome(self.folder, figures, history, seconds, trained=True)

    def _budget(self, model: nn.Module) -> Callable[[], MacBudget] | None:
        target, weight = self.job.recipe.mac_budget, self.job.recipe.mac_budget_weight
        if target is None:
            return None
        assert isinstance(model, fx.GraphModule)  # mac_budget is for classification
        macs, total = node_macs(self.job.spec)
        return lambda: MacBudget(model, macs, total, target=target, weight=weight)

    def _write_result(self, engine: Engine[Any], figures: dict[str, float], seconds: float) -> None:
        averaged = engine.averaged is not None
        metadata = {
            "name": self.job.spec.name,
            "spec_hash": content_hash(self.job.spec),
            "run": self.job.identity,
            "weights": "averaged" if averaged else "last",
            **{name: f"{value:.6f}" for name, value in figures.items()},
        }
        save_weights(self.folder / "weights.safetensors", engine.result.state_dict(), metadata)
        outcome = {
            **figures,
            "seconds": seconds,
            "epochs": self.job.recipe.epochs,
            "steps": engine.step,
            "params": sum(parameter.numel() for parameter in engine.model.parameters()),
            "weights": metadata["weights"],
            "device": _device_name(self.processes.device),
            "processes": self.processes.world,
            **self.setting.describe(self.data),
        }
        _write_manifest(self.folder, self.job, "complete", outcome)


@dataclass(frozen=True)
class _Recorder:
    """Writes the metrics of each epoch, then tells the observer."""

    observer: Observer
    folder: Path
    processes: Processes

    def say(self, text: str) -> None:
        self.observer.say(text)

    def on_resume(self, step: int, damaged: list[Path]) -> None:
        self.observer.on_resume(step, damaged)

    def on_start(self, step: int, total_steps: int, steps_per_epoch: int) -> None:
        self.observer.on_start(step, total_steps, steps_per_epoch)

    def on_step(self, step: int, loss: float) -> None:
        self.observer.on_step(step, loss)

    def on_epoch(self, record: Record, history: list[Record]) -> None:
        if self.processes.is_first:
            write_metrics(self.folder, history)
        self.observer.on_epoch(record, history)


def evaluate_run(
    folder: Path,
    *,
    data: str | None = None,
    data_dir: Path | None = None,
    part: str | None = None,
    device: str = "auto",
    workers: int = 0,
) -> dict[str, Any]:
    """The figures of a finished run's network, and the first of them under each inference mode.

    Modes are there if it has routed edges. The `reestimated` ones have batch-norm statistics
    estimated on training data under their own rule; `masked_literal` keeps those of training,
    which do not fit it.

    Raises:
        TrainingError: the folder is no finished run, or the data cannot be used.
    """
    manifest = read_manifest(folder)
    if manifest.get("status") != "complete":
        raise StorageError(f"{folder} is not finished; start its training command again")
    chosen = manifest["data"]
    job = Job(
        spec=load(folder / RESOLVED_SPEC),
        recipe=load_recipe(str(folder / "recipe.yaml")),
        data=data or chosen["name"],
        data_dir=data_dir or Path(chosen["folder"]),
        seed=manifest["seed"],
    )
    setting = SETTINGS[job.task]
    dataset = setting.open(job, part)
    setting.adopt(dataset, manifest)
    processes = join(device)
    model = setting.load(folder).to(processes.device)
    batches = dataset.training(
        job.recipe, Share(job.recipe.batch_size), job.seed, processes.device, workers
    )
    task = setting.task(job, dataset, batches, processes, workers)

    def score() -> float:
        return next(iter(setting.select(task.evaluate(model, processes)).values()))

    result: dict[str, Any] = {
        "run": str(folder),
        "name": job.spec.name,
        "data": job.data,
        **setting.report(task, model, processes),
    }
    if any(True for _ in gates(model)):
        modes = result["modes"] = {}
        with inference(model, mode="soft"):
            modes["soft"] = score()
        with inference(model, mode="masked", rule="consistent"):
            modes["masked_consistent"] = score()
        with inference(model, mode="masked", rule="literal"):
            modes["masked_literal"] = score()
        for rule in get_args(Rule):
            with inference(model, mode="masked", rule=rule):
                _reestimate(model, batches, job)
                modes[f"masked_{rule}_reestimated"] = score()
    return result


def read_manifest(folder: Path) -> dict[str, Any]:
    """`run.json` of a run folder.

    Raises:
        StorageError: there is none, or it cannot be read.
    """
    path = folder / "run.json"
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        raise StorageError(f"{folder} is no run folder: it has no run.json") from None
    except (OSError, ValueError) as error:
        raise StorageError(f"cannot read {path}: {error}") from error
    if not isinstance(manifest, dict) or not manifest.keys() >= {"identity", "status", "data"}:
        raise StorageError(f"{path} was not written by `graphc train`")
    return manifest


def _finished(folder: Path, job: Job, processes: Processes) -> Outcome | None:
    """The outcome of an earlier, complete run of the same job."""
    if not processes.is_first or not (folder / "run.json").exists():
        return None
    manifest = read_manifest(folder)
    if manifest["identity"] != job.identity:
        raise StorageError(
            f"{folder} holds the run of another spec, recipe, seed or data "
            f"({manifest['identity']}, not {job.identity}); use another --run"
        )
    if manifest["status"] != "complete":
        return None
    history = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    figures = {name: manifest[name] for name in SETTINGS[job.task].figures}
    return Outcome(folder, figures, history, manifest["seconds"], trained=False)


def _write_head(folder: Path, job: Job) -> None:
    """The files that say what will be trained."""
    write_atomically(folder / RESOLVED_SPEC, dump(resolve(job.spec)).encode())
    write_atomically(folder / "recipe.yaml", dump_recipe(job.recipe).encode())
    _write_manifest(folder, job, "running", {})


def _write_manifest(folder: Path, job: Job, status: str, outcome: dict[str, Any]) -> None:
    manifest = {
        "schema_version": 1,
        "name": job.spec.name,
        "task": job.task,
        "status": status,
        "identity": job.identity,
        "spec_hash": content_hash(job.spec),
        "data": {"name": job.data, "folder": str(job.data_dir)},
        "initial_weights": job.initial_weights and str(job.initial_weights),
        "seed": job.seed,
        "bf16": job.bf16,
        "versions": {"python": platform.python_version(), **_versions("graphc-nn", "torch")},
        **outcome,
    }
    write_atomically(folder / "run.json", (json.dumps(manifest, indent=2) + "\n").encode())


def _versions(*distributions: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in distributions:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _draw(graph: Any, folder: Path) -> None:
    from compiler.drawing import draw

    draw(graph, folder / "graph.svg")


def _reestimate(model: nn.Module, batches: TrainingBatches[Any], job: Job) -> None:
    """Batch-norm statistics under the network's present inference rule."""
    epoch = batches.epoch(job.recipe.epochs)
    steps = min(batches.steps_per_epoch, REESTIMATION_STEPS)
    reestimate_batch_norm(model, (next(epoch)[0] for _ in range(steps)))


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


@contextmanager
def _locked(folder: Path, processes: Processes) -> Generator[None]:
    """Keeps a second training command out of the folder; a killed one leaves no lock behind."""
    if not processes.is_first:
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise StorageError(f"cannot write {folder}: {error.strerror or error}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StorageError(f"another process is training in {folder}") from None
        yield
