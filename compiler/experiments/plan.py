"""Experiments: networks x seeds, trained alike and compared.

Every run is a `graphc train` command of its own with a folder of its own, so that a stopped
experiment goes on where it was, and any scheduler can take the commands.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from compiler.files import replacing
from compiler.training.job import Job, TaskName
from compiler.training.recipes import NoSuchRecipeError, default_recipe, load_recipe, recipe_names
from compiler.training.runs import read_manifest
from compiler.training.tasks import SETTINGS
from graphspec import Report, load
from graphspec.errors import SpecPath, suggest
from graphspec.source import decode, plain, provenance, read
from runtime.training.errors import DataError, StorageError
from runtime.training.recipe import Recipe, RecipeError
from runtime.training.sources import check_name

Mode = Literal[
    "soft",
    "masked_consistent",
    "masked_literal",
    "masked_consistent_reestimated",
    "masked_literal_reestimated",
]
"""What `graphc eval` measures of a network with routed edges."""

_MAIN = "import sys; from compiler.cli import main; sys.exit(main())"
_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
_POLL_SECONDS = 0.1
_SAID_ELSEWHERE = {
    "--set": "use `set`",
    "--data": "use `data`",
    "--recipe": "use `recipe`",
    "--recipe-set": "use `recipe_set`",
    "--epochs": "use `recipe_set: [epochs=...]`",
    "--batch-size": "use `recipe_set: [batch_size=...]`",
    "--lr": "use `recipe_set: [lr=...]`",
    "--seed": "use `seeds`",
    "--run": "`graphc experiment --run FOLDER` moves all runs",
    "--run-folder": "`graphc experiment --run FOLDER` moves all runs",
    "--data-dir": "`graphc experiment --data-dir FOLDER` says where the data are",
}
"""Options of `graphc train` that decide what a run is or where it lies."""


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Network(_Entry):
    """One of the networks that are compared: a spec file and what is changed of it."""

    name: str = Field(pattern=_NAME)
    spec: str
    set: tuple[str, ...] = ()
    recipe: str | None = None
    recipe_set: tuple[str, ...] = ()
    init_weights: str | None = None


class Experiment(_Entry):
    """What an experiment file says. The first network is the one others are compared with.

    `set` and `recipe_set` are for all networks, and come before a network's own. With `redraw`
    a run's seed is the seed of the spec's random wirings too. `modes`: measure every network
    under these inference modes. `part`: of the data for detection, to measure every network on
    after training. `launch` goes before the training commands, `options` after
    them; with `commands_only` they are printed and never run here.
    """

    version: Literal[1]
    name: str = Field(pattern=_NAME)
    title: str
    note: str = ""
    task: TaskName = "classification"
    data: str
    recipe: str | None = None
    recipe_set: tuple[str, ...] = ()
    set: tuple[str, ...] = ()
    seeds: tuple[int, ...] = Field(min_length=1)
    redraw: bool = False
    modes: tuple[Mode, ...] = ()
    part: str | None = None
    networks: tuple[Network, ...] = Field(min_length=1)
    launch: str = ""
    options: tuple[str, ...] = ()
    commands_only: bool = False

    @property
    def score(self) -> tuple[str, str]:
        """The figure that networks are compared by, as runs and as their metrics call it."""
        return next(iter(SETTINGS[self.task].figures.items()))


@dataclass(frozen=True, eq=False)
class Run:
    """One network with one seed: how it is trained, and where."""

    network: str
    seed: int
    job: Job
    folder: Path
    arguments: tuple[str, ...]
    """of `graphc`"""

    @property
    def command(self) -> str:
        return shlex.join(("graphc", *self.arguments))

    @property
    def log(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def is_finished(self) -> bool:
        return self.manifest is not None

    @property
    def manifest(self) -> dict[str, Any] | None:
        """`run.json` of the finished run; one from other weights or data does not count."""
        try:
            manifest = read_manifest(self.folder)
            is_this = manifest["identity"] == self.job.identity
        except (StorageError, DataError):
            return None
        return manifest if is_this and manifest["status"] == "complete" else None


class ExperimentError(Exception):
    """A run that cannot succeed, and with it no other."""


def read_experiment(path: Path) -> Experiment:
    """The experiment in a file.

    Raises:
        SpecError: with everything that is wrong with the file, at its place.
    """
    report = Report()
    text = decode(path.read_bytes(), str(path), report)
    tree = None if text is None else read(text, str(path), report)
    report.raise_errors()
    assert tree is not None
    report = Report(provenance(tree))
    experiment = _validated(plain(tree), report)
    report.raise_errors()
    assert experiment is not None
    _verify(experiment, path, report)
    report.raise_errors()
    return experiment


def _validated(content: Any, report: Report) -> Experiment | None:
    if not isinstance(content, dict):
        known = ", ".join(Experiment.model_fields)
        report.error("experiment", (), "an experiment is a mapping", f"its keys: {known}")
        return None
    try:
        return Experiment.model_validate(content)
    except ValidationError as error:
        for finding in error.errors():
            where: SpecPath = finding["loc"]
            if finding["type"] == "extra_forbidden":
                model = Network if where[0] == "networks" else Experiment
                hint, _ = suggest(str(where[-1]), model.model_fields)
                report.error("unknown-key", where, f"unknown key {where[-1]!r}", hint, key=True)
            elif finding["type"] == "missing":
                report.error("missing-key", where[:-1], f"{where[-1]!r} is missing")
            else:
                report.error("experiment", where, finding["msg"])
    return None


def _verify(experiment: Experiment, path: Path, report: Report) -> None:
    """What the fields alone do not show: names, files, recipes."""
    names = [network.name for network in experiment.networks]
    for index, network in enumerate(experiment.networks):
        where = ("networks", index)
        if network.name in names[:index]:
            message = f"a second network is called {network.name!r}"
            report.error("duplicate-name", (*where, "name"), message)
        if not (path.parent / network.spec).is_file():
            message = f"there is no file {path.parent / network.spec}"
            report.error("no-such-file", (*where, "spec"), message, "relative to this file")
        _verify_recipe(experiment, index, network, report)
    for index, word in enumerate(experiment.options):
        option = word.partition("=")[0]
        if option in _SAID_ELSEWHERE:
            message = f"{option} is not said here, or runs would not know what they are"
            report.error("experiment", ("options", index), message, _SAID_ELSEWHERE[option])
    if len(set(experiment.seeds)) < len(experiment.seeds) or min(experiment.seeds) < 0:
        report.error("experiment", ("seeds",), "seeds are different whole numbers from 0")


def _verify_recipe(experiment: Experiment, index: int, network: Network, report: Report) -> None:
    where = ("networks", index)
    try:
        recipe = _recipe(experiment, network)
        if (recipe.detection is not None) != (experiment.task == "detection"):
            kind = "classification" if recipe.detection is None else "detection"
            report.error("recipe", ("task",), f"{network.name} has a recipe for {kind}")
    except DataError as error:
        report.error("data", ("data",), str(error))
    except NoSuchRecipeError as error:
        own = (*where, "recipe") if network.recipe else ("recipe",)
        report.error("recipe", own, str(error))
    except RecipeError as error:
        own = (*where, "recipe_set") if network.recipe_set else ("recipe_set",)
        report.error("recipe", own, str(error))


def _recipe_name(experiment: Experiment, network: Network) -> str:
    name = network.recipe or experiment.recipe or default_recipe(experiment.data)
    if name is None:
        check_name(experiment.data)
        raise NoSuchRecipeError(
            f"no recipe is made for {experiment.data}; name one: {', '.join(recipe_names())}"
        )
    return name


def _recipe(experiment: Experiment, network: Network, overrides: Sequence[str] = ()) -> Recipe:
    changes = (*experiment.recipe_set, *network.recipe_set, *overrides)
    return load_recipe(_recipe_name(experiment, network), changes)


def plan(
    experiment: Experiment,
    path: Path,
    folder: Path,
    *,
    seeds: Sequence[int] | None = None,
    recipe_overrides: Sequence[str] = (),
    data_dir: Path = Path("data"),
) -> list[Run]:
    """The runs of an experiment, below `folder`; by seed, then by network.

    Raises:
        SpecError: a spec is wrong.
        RecipeError: an override is wrong.
    """
    return [
        _run(experiment, network, seed, path.parent, folder, recipe_overrides, data_dir)
        for seed in (experiment.seeds if seeds is None else seeds)
        for network in experiment.networks
    ]


def _run(
    experiment: Experiment,
    network: Network,
    seed: int,
    specs: Path,
    folder: Path,
    recipe_overrides: Sequence[str],
    data_dir: Path,
) -> Run:
    file = Path(os.path.relpath(specs / network.spec))
    redraw = (f"seed={seed}",) if experiment.redraw else ()
    changes = (*experiment.set, *network.set, *redraw)
    spec = load(file, overrides=changes)
    recipe = _recipe(experiment, network, recipe_overrides)
    is_bf16 = any(word in ("bf16", "--amp=bf16") for word in experiment.options)
    job = Job(
        spec=spec,
        recipe=recipe,
        data=experiment.data,
        seed=seed,
        bf16=is_bf16,
        initial_weights=Path(network.init_weights) if network.init_weights else None,
    )
    run_folder = folder / network.name / f"seed{seed}-{job.label}"
    recipe_changes = (*experiment.recipe_set, *network.recipe_set, *recipe_overrides)
    arguments = (
        "train",
        str(file),
        *_repeated("--set", changes),
        *(("--task", experiment.task) if experiment.task != "classification" else ()),
        *("--data", experiment.data, "--data-dir", str(data_dir)),
        *("--recipe", _recipe_name(experiment, network)),
        *_repeated("--recipe-set", recipe_changes),
        *(("--init-weights", network.init_weights) if network.init_weights else ()),
        # torchrun would take `--run` for a short form of its own `--run-path`.
        *("--seed", str(seed), "--run-folder", str(run_folder)),
        *experiment.options,
    )
    return Run(network.name, seed, job, run_folder, arguments)


def _repeated(option: str, values: Sequence[str]) -> Iterator[str]:
    for value in values:
        yield from (option, value)


def execute(runs: Sequence[Run], jobs: int, on_end: Callable[[Run, int, float], None]) -> None:
    """Trains what is not finished, `jobs` at a time; `on_end` hears of exit codes and seconds.

    A run that diverges leaves the others going.

    Raises:
        ExperimentError: a run failed for a reason that all share: data, arguments, storage.
    """
    waiting = [run for run in runs if not run.is_finished]
    with _children() as running:
        while waiting or running:
            while waiting and len(running) < jobs:
                run = waiting.pop(0)
                running[run] = (_start(run.arguments, run.log, jobs), time.monotonic())
            time.sleep(_POLL_SECONDS)
            for run, (process, start) in list(running.items()):
                status = process.poll()
                if status is None:
                    continue
                del running[run]
                on_end(run, status, time.monotonic() - start)
                if status not in (0, 1):
                    raise ExperimentError(f"{run.command}\n{last_lines(run.log)}")


@contextmanager
def _children() -> Generator[dict[Run, tuple[subprocess.Popen[bytes], float]]]:
    """Processes that end with the block, however it ends; their checkpoints stay."""
    running: dict[Run, tuple[subprocess.Popen[bytes], float]] = {}
    try:
        yield running
    finally:
        for process, _ in running.values():
            process.terminate()
        for process, _ in running.values():
            process.wait()


def _start(arguments: Sequence[str], log: Path, jobs: int) -> subprocess.Popen[bytes]:
    environment = dict(os.environ)
    if jobs > 1:
        threads = max(1, (os.cpu_count() or 1) // jobs)
        environment.setdefault("OMP_NUM_THREADS", str(threads))
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        return _graphc(arguments, environment, file)


def _graphc(
    arguments: Sequence[str], environment: dict[str, str], output: IO[bytes]
) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", _MAIN, *arguments]
    return subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)


def scores(experiment: Experiment, run: Run, data_dir: Path) -> dict[str, float]:
    """What is compared of a finished run, by inference mode where several are.

    `graphc eval` measures what training did not; that is kept beside the run.

    Raises:
        ExperimentError: it cannot be measured.
    """
    import json

    name, _ = experiment.score
    if not (experiment.modes or experiment.part):
        assert run.manifest is not None
        return {"": run.manifest[name]}
    part = ("--part", experiment.part) if experiment.part else ()
    kept = run.folder / f"eval{f'-{experiment.part}' if part else ''}.json"
    if not kept.exists():
        command = [sys.executable, "-c", _MAIN, "eval", str(run.folder), *part]
        command += ["--data-dir", str(data_dir), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ExperimentError(f"graphc eval {run.folder}\n{done.stderr}")
        with replacing(kept) as temporary:
            temporary.write_text(done.stdout, encoding="utf-8")
    result = json.loads(kept.read_text())
    if not experiment.modes:
        return {"": result[name]}
    found = result.get("modes", {"soft": result[name]})
    return {mode: found[mode] for mode in experiment.modes if mode in found}


def last_lines(log: Path) -> str:
    """The end of a run's output."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-8:])
