"""From a spec, a recipe and data to a run folder, and from a run folder to its accuracy.

A run folder opens without this package: `spec.resolved.yaml`, `recipe.yaml`, `run.json`,
`weights.safetensors`, `metrics.jsonl`, `metrics.csv`, `graph.svg`, `checkpoint/`.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import platform
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, get_args

import torch
from torch import fx, nn

from compiler.analysis import analyze
from compiler.driver import compile
from compiler.mac_share import node_macs
from compiler.recipes import dump_recipe, load_recipe
from graphspec import NetworkSpec, Report, content_hash, dump, load, resolve
from runtime.gating import Rule, gates, inference, set_inference
from runtime.training.arrays import ArrayDataset
from runtime.training.batches import Dataset, Share
from runtime.training.budget import MacBudget
from runtime.training.checkpoint import save_weights, write_atomically, write_metrics
from runtime.training.engine import PLAIN, Engine, Execution, Observer, Record
from runtime.training.errors import StorageError
from runtime.training.evaluation import evaluate, reestimate_batch_norm
from runtime.training.processes import Processes, join
from runtime.training.recipe import Recipe
from runtime.training.sources import open_data

TEST_BATCH = 500
REESTIMATION_STEPS = 100
"""Batches for batch-norm statistics under another inference rule."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is trained on what. Equal jobs share a run folder, and with it their checkpoints."""

    spec: NetworkSpec
    recipe: Recipe
    data: str
    data_dir: Path = Path("data")
    seed: int = 0
    bf16: bool = False

    @property
    def identity(self) -> str:
        """A hash of everything that decides the result; places and devices do not."""
        parts = {
            "spec": content_hash(self.spec),
            "recipe": self.recipe.as_mapping(),
            "data": self.data,
            "seed": self.seed,
            "bf16": self.bf16,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Outcome:
    """What a run came to; `trained` is False where it was complete before."""

    folder: Path
    accuracy: float
    history: list[Record]
    seconds: float
    trained: bool


def check_data(spec: NetworkSpec, data: Dataset) -> None:
    """Compares the data with what the network takes and tells apart.

    Raises:
        SpecError: at `input_shape` and `head.num_classes`.
    """
    report = Report(spec.provenance)
    if isinstance(data, ArrayDataset) and data.image_shape != spec.input_shape:
        shape = list(data.image_shape)
        report.error(
            "data-shape",
            ("input_shape",),
            f"the network takes {list(spec.input_shape)}, but {data.name} has images of {shape}",
            f"use --set 'input_shape={shape}', or other --data",
        )
    if data.num_classes != spec.head.num_classes:
        report.error(
            "data-classes",
            ("head", "num_classes"),
            f"the network tells {spec.head.num_classes} classes apart, but {data.name} has "
            f"{data.num_classes}",
            f"use --set head.num_classes={data.num_classes}, or other --data",
        )
    report.raise_errors()


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
            data = open_data(job.data, job.data_dir, job.spec.input_shape, download=download)
            check_data(job.spec, data)
            if processes.is_first:
                _write_head(folder, job)
                _draw(graph, folder)
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
        data: Dataset,
        share: Share,
        processes: Processes,
        execution: Execution,
        workers: int,
    ) -> None:
        self.job, self.folder, self.data = job, folder, data
        self.processes, self.execution, self.workers = processes, execution, workers
        self.batches = data.training(job.recipe, share, job.seed, processes.device, workers)

    def train(self, observer: Observer) -> Outcome:
        torch.manual_seed(self.job.seed)
        model = compile(self.job.spec)
        is_literal = any(gate.rule == "literal" for gate in gates(model))
        if is_literal:  # until its batch-norm statistics are estimated, see below
            set_inference(model, mode="soft")
        engine = Engine(
            model,
            self.job.recipe,
            self.batches,
            self._test_batches,
            self.folder / "checkpoint",
            _Recorder(observer, self.folder, self.processes),
            identity=self.job.identity,
            processes=self.processes,
            execution=self.execution,
            budget=self._budget(model),
        )
        history = engine.fit()
        accuracy = history[-1]["test_accuracy"]
        if is_literal:
            set_inference(engine.result, mode="masked")
            _reestimate(engine.result, self.data, self.job, self.processes.device, self.workers)
            self.processes.share_buffers(engine.result)
            accuracy = evaluate(engine.result, self._test_batches(), self.processes)["accuracy"]
        seconds = round(engine.seconds, 3)
        if self.processes.is_first:
            self._write_result(engine, accuracy, seconds)
        return Outcome(self.folder, accuracy, history, seconds, trained=True)

    def _budget(self, model: fx.GraphModule) -> Callable[[], MacBudget] | None:
        target, weight = self.job.recipe.mac_budget, self.job.recipe.mac_budget_weight
        if target is None:
            return None
        macs, total = node_macs(self.job.spec)
        return lambda: MacBudget(model, macs, total, target=target, weight=weight)

    def _test_batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        device, rank, world = self.processes.device, self.processes.rank, self.processes.world
        return self.data.testing(TEST_BATCH, device, self.workers, rank, world)

    def _write_result(self, engine: Engine, accuracy: float, seconds: float) -> None:
        averaged = engine.averaged is not None
        metadata = {
            "name": self.job.spec.name,
            "spec_hash": content_hash(self.job.spec),
            "run": self.job.identity,
            "weights": "averaged" if averaged else "last",
            "accuracy": f"{accuracy:.6f}",
        }
        save_weights(self.folder / "weights.safetensors", engine.result.state_dict(), metadata)
        normalization = self.data.normalization
        outcome = {
            "accuracy": accuracy,
            "seconds": seconds,
            "epochs": self.job.recipe.epochs,
            "steps": engine.step,
            "params": sum(parameter.numel() for parameter in engine.model.parameters()),
            "weights": metadata["weights"],
            "device": _device_name(self.processes.device),
            "processes": self.processes.world,
            "normalization": {
                "scale": normalization.scale,
                "mean": normalization.mean,
                "std": normalization.std,
            },
        }
        _write_manifest(self.folder, self.job, "complete", outcome)


@dataclass(frozen=True)
class _Recorder:
    """Writes the metrics of each epoch, then tells the observer."""

    observer: Observer
    folder: Path
    processes: Processes

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
    device: str = "auto",
    workers: int = 0,
) -> dict[str, Any]:
    """Accuracy of a finished run's network, under each inference mode if it has routed edges.

    The `reestimated` ones have batch-norm statistics estimated on training data under their own
    rule; `masked_literal` keeps those of training, which do not fit it.

    Raises:
        TrainingError: the folder is no finished run, or the data cannot be used.
    """
    manifest = read_manifest(folder)
    if manifest.get("status") != "complete":
        raise StorageError(f"{folder} is not finished; start its training command again")
    spec = load(folder / "spec.resolved.yaml")
    chosen = manifest["data"]
    job = Job(
        spec=spec,
        recipe=load_recipe(str(folder / "recipe.yaml")),
        data=data or chosen["name"],
        data_dir=data_dir or Path(chosen["folder"]),
        seed=manifest["seed"],
    )
    dataset = open_data(job.data, job.data_dir, spec.input_shape)
    check_data(spec, dataset)
    # The network was trained on images of this mean and spread, whatever other data hold.
    seen = manifest["normalization"]
    dataset.normalization = replace(
        dataset.normalization, mean=tuple(seen["mean"]), std=tuple(seen["std"])
    )
    processes = join(device)
    model = load_network(folder).to(processes.device)

    def accuracy() -> float:
        batches = dataset.testing(TEST_BATCH, processes.device, workers)
        return evaluate(model, batches, processes)["accuracy"]

    result: dict[str, Any] = {
        "run": str(folder),
        "name": spec.name,
        "data": job.data,
        "accuracy": accuracy(),
    }
    if any(True for _ in gates(model)):
        modes = result["modes"] = {}
        with inference(model, mode="soft"):
            modes["soft"] = accuracy()
        with inference(model, mode="masked", rule="consistent"):
            modes["masked_consistent"] = accuracy()
        with inference(model, mode="masked", rule="literal"):
            modes["masked_literal"] = accuracy()
        for rule in get_args(Rule):
            with inference(model, mode="masked", rule=rule):
                _reestimate(model, dataset, job, processes.device, workers)
                modes[f"masked_{rule}_reestimated"] = accuracy()
    return result


def load_network(folder: Path) -> fx.GraphModule:
    """The trained network of a run folder, in eval mode, on the CPU.

    Raises:
        StorageError: the folder has no readable weights.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / "weights.safetensors"
    model = compile(load(folder / "spec.resolved.yaml"), device="cpu")
    try:
        model.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise StorageError(f"cannot read the weights {path}: {error}") from error
    return model.eval()


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
    return Outcome(folder, manifest["accuracy"], history, manifest["seconds"], trained=False)


def _write_head(folder: Path, job: Job) -> None:
    """The files that say what will be trained."""
    write_atomically(folder / "spec.resolved.yaml", dump(resolve(job.spec)).encode())
    write_atomically(folder / "recipe.yaml", dump_recipe(job.recipe).encode())
    _write_manifest(folder, job, "running", {})


def _write_manifest(folder: Path, job: Job, status: str, outcome: dict[str, Any]) -> None:
    manifest = {
        "schema_version": 1,
        "name": job.spec.name,
        "status": status,
        "identity": job.identity,
        "spec_hash": content_hash(job.spec),
        "data": {"name": job.data, "folder": str(job.data_dir)},
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


def _reestimate(
    model: nn.Module, data: Dataset, job: Job, device: torch.device, workers: int
) -> None:
    """Batch-norm statistics under the network's present inference rule."""
    batches = data.training(job.recipe, Share(job.recipe.batch_size), job.seed, device, workers)
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
