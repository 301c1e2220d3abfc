"""What a run is for: the data, the network and the figures of each task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from compiler.driver import compile
from compiler.files import RESOLVED_SPEC
from compiler.training.job import Job, TaskName
from compiler.transfer import WeightsError, import_weights
from graphspec import NetworkSpec, Report, load
from runtime.training.arrays import ArrayDataset
from runtime.training.batches import Dataset, TrainingBatches
from runtime.training.coco import CocoDataset
from runtime.training.detection import FIGURES, Detection
from runtime.training.errors import DataError, StorageError
from runtime.training.processes import Processes
from runtime.training.recipe import RecipeError
from runtime.training.sources import open_data
from runtime.training.task import Classification, Task

TEST_BATCH = 500


class Setting(ABC):
    """What differs between the runs of one task and another."""

    figures: ClassVar[Mapping[str, str]]
    """What `run.json` and reports call the figures, by their name in the metrics; first, the one
    that networks are compared by."""

    @abstractmethod
    def open(self, job: Job, part: str | None = None, *, download: bool = False) -> Dataset[Any]:
        """The data of a job, checked against its spec.

        Raises:
            SpecError: they do not fit.
            DataError: they cannot be used.
        """

    @abstractmethod
    def build(self, job: Job, data: Dataset[Any]) -> tuple[nn.Module, str]:
        """The network with its initial weights, and what was said of these."""

    @abstractmethod
    def task(
        self,
        job: Job,
        data: Dataset[Any],
        batches: TrainingBatches[Any],
        processes: Processes,
        workers: int,
    ) -> Task[Any]:
        """What the engine trains for."""

    @abstractmethod
    def describe(self, data: Dataset[Any]) -> dict[str, Any]:
        """What `run.json` says of the data, so that the network can be used on other images."""

    @abstractmethod
    def load(self, folder: Path) -> nn.Module:
        """The trained network of a run folder, in eval mode, on the CPU."""

    @abstractmethod
    def adopt(self, data: Dataset[Any], manifest: Mapping[str, Any]) -> None:
        """Makes data ready for a network that was trained on what `manifest` describes."""

    def report(self, task: Task[Any], model: nn.Module, processes: Processes) -> dict[str, Any]:
        """The figures of a network, and what else is worth knowing of it."""
        return self.select(task.evaluate(model, processes))

    def select(self, record: Mapping[str, float]) -> dict[str, float]:
        """The figures of an entry of the metrics."""
        return {name: record[entry] for name, entry in self.figures.items()}


class ClassificationSetting(Setting):
    """Images into classes, by the network of the spec as it is."""

    figures: ClassVar[Mapping[str, str]] = {"accuracy": "test_accuracy"}

    def open(self, job: Job, part: str | None = None, *, download: bool = False) -> Dataset[Any]:
        if part is not None:
            raise DataError(f"--part {part}: only data for detection have parts to choose from")
        data = open_data(job.data, job.data_dir, job.spec.input_shape, download=download)
        check_data(job.spec, data)
        return data

    def build(self, job: Job, data: Dataset[Any]) -> tuple[nn.Module, str]:
        network = compile(job.spec)
        return network, _initialize(network, job)

    def task(
        self,
        job: Job,
        data: Dataset[Any],
        batches: TrainingBatches[Any],
        processes: Processes,
        workers: int,
    ) -> Task[Any]:
        device, rank, world = processes.device, processes.rank, processes.world
        return Classification(
            batches,
            lambda: data.testing(TEST_BATCH, device, workers, rank, world),
            job.recipe.label_smoothing,
        )

    def describe(self, data: Dataset[Any]) -> dict[str, Any]:
        return {"normalization": _normalization(data)}

    def load(self, folder: Path) -> nn.Module:
        return load_network(folder)

    def adopt(self, data: Dataset[Any], manifest: Mapping[str, Any]) -> None:
        seen = manifest["normalization"]
        data.normalization = replace(
            data.normalization, mean=tuple(seen["mean"]), std=tuple(seen["std"])
        )


class DetectionSetting(Setting):
    """Boxes in images, by Faster R-CNN with a feature pyramid on the network of the spec.

    Images are tested one by one: a batch is padded to its largest image, and routers see the
    padding, so that an image's routes would depend on its neighbours.
    """

    figures: ClassVar[Mapping[str, str]] = {name: name for name in FIGURES}

    def open(self, job: Job, part: str | None = None, *, download: bool = False) -> CocoDataset:
        if download:
            raise DataError("there is no detection data to download; give --data FOLDER")
        return CocoDataset(Path(job.data), job.spec.input_shape[0], part or "val")

    def build(self, job: Job, data: Dataset[Any]) -> tuple[nn.Module, str]:
        from compiler.training.detector import detector

        assert job.recipe.detection is not None
        if job.recipe.detection.frozen_norm and job.initial_weights is None:
            raise RecipeError(
                "detection.frozen_norm",
                "frozen_norm keeps random batch norms without --init-weights; give a FILE, or "
                "train them from scratch: --recipe-set detection.frozen_norm=false",
            )
        network = compile(job.spec)
        said = _initialize(network, job)
        model = detector(
            network, job.spec, job.recipe.detection, data.num_classes, data.normalization
        )
        return model, said

    def task(
        self,
        job: Job,
        data: Dataset[Any],
        batches: TrainingBatches[Any],
        processes: Processes,
        workers: int,
    ) -> Task[Any]:
        assert isinstance(data, CocoDataset)
        device, rank, world = processes.device, processes.rank, processes.world
        return Detection(batches, lambda: data.testing(1, device, workers, rank, world), data.test)

    def describe(self, data: Dataset[Any]) -> dict[str, Any]:
        assert isinstance(data, CocoDataset)
        return {"normalization": _normalization(data), "classes": list(data.classes)}

    def report(self, task: Task[Any], model: nn.Module, processes: Processes) -> dict[str, Any]:
        assert isinstance(task, Detection)
        found = task.detect(model, processes)
        figures, by_class = task.figures(found), task.by_class(found)
        return {"part": task.part.name, **figures, "AP_by_class": by_class}

    def load(self, folder: Path) -> nn.Module:
        from compiler.training.detector import load_detector

        return load_detector(folder)

    def adopt(self, data: Dataset[Any], manifest: Mapping[str, Any]) -> None:
        assert isinstance(data, CocoDataset)
        if list(data.classes) != manifest["classes"]:
            raise DataError(
                f"the detector knows {', '.join(manifest['classes'])}, but {data.name} has "
                f"{', '.join(data.classes)}"
            )


SETTINGS: dict[TaskName, Setting] = {
    "classification": ClassificationSetting(),
    "detection": DetectionSetting(),
}


def check_data(spec: NetworkSpec, data: Dataset[Any]) -> None:
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


def load_network(folder: Path) -> torch.fx.GraphModule:
    """The trained network of a run folder, in eval mode, on the CPU.

    Raises:
        StorageError: the folder has no readable weights.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / "weights.safetensors"
    model = compile(load(folder / RESOLVED_SPEC), device="cpu")
    try:
        tensors = load_file(path)
        if any(name.startswith("roi_heads.") for name in tensors):
            raise StorageError(f"{folder} holds a detector, which is more than a network")
        model.load_state_dict(tensors)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise StorageError(f"cannot read the weights {path}: {error}") from error
    return model.eval()


def _initialize(network: torch.fx.GraphModule, job: Job) -> str:
    if job.initial_weights is None:
        return ""
    try:
        return import_weights(network, job.spec, job.initial_weights).summary()
    except WeightsError as error:
        raise DataError(f"{job.initial_weights}: {error}") from error


def _normalization(data: Dataset[Any]) -> dict[str, Any]:
    found = data.normalization
    return {"scale": found.scale, "mean": found.mean, "std": found.std}
