"""The training run: steps, epochs, checkpoints.

Optimizer, schedule, averaging, autocast and process groups are torch's. What is ours is the
order of things, so that a run that is killed anywhere goes on to the same weights, bit by bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    SequentialLR,
)
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from runtime.training.batches import B, derive_seed
from runtime.training.budget import MacBudget
from runtime.training.checkpoint import load_checkpoint, save_checkpoint
from runtime.training.drop_edge import DropEdge
from runtime.training.errors import DivergedError, StorageError
from runtime.training.evaluation import BATCH_NORMS
from runtime.training.finite import describe, first_cause
from runtime.training.processes import Processes
from runtime.training.recipe import LR_DROP, Recipe, RecipeError
from runtime.training.task import Task

Record = dict[str, float]
"""The metrics of one epoch."""

TOTAL = "train_loss"


class Observer(Protocol):
    """Is told how the run goes; only the first process has one that speaks."""

    def say(self, text: str) -> None: ...
    def on_resume(self, step: int, damaged: list[Path]) -> None: ...
    def on_start(self, step: int, total_steps: int, steps_per_epoch: int) -> None: ...
    def on_step(self, step: int, loss: float) -> None: ...
    def on_epoch(self, record: Record, history: list[Record]) -> None: ...


@dataclass(frozen=True)
class Execution:
    """How the same arithmetic is carried out; only `bf16` changes what is computed."""

    bf16: bool = False
    channels_last: bool = False
    torch_compile: bool = False
    checkpoint_seconds: float = 30.0

    def autocast(self, device: torch.device) -> AbstractContextManager[Any]:
        return torch.autocast(device.type, torch.bfloat16) if self.bf16 else nullcontext()


PLAIN = Execution()


class Engine(Generic[B]):
    """Trains `model` in place, from the newest checkpoint in `folder` if there is one.

    `identity` names what is trained on what; a checkpoint of something else is refused.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        task: Task[B],
        folder: Path,
        observer: Observer,
        *,
        identity: str,
        processes: Processes,
        execution: Execution = PLAIN,
        budget: Callable[[], MacBudget] | None = None,
    ) -> None:
        self.recipe, self.task, self.batches = recipe, task, task.batches
        self.folder, self.observer, self.identity = folder, observer, identity
        self.processes, self.execution = processes, execution
        self.model = model.to(processes.device)
        if execution.channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)
        self.averaged = _averaged(self.model, recipe)
        self.optimizer = make_optimizer(self.model, recipe)
        self.scheduler = make_scheduler(self.optimizer, recipe, self.batches.steps_per_epoch)
        self.step = 0
        self.history: list[Record] = []
        self._loss_sums: dict[str, float] = {}
        self._seconds_before = 0.0
        self._resumed_at = self._saved_at = time.monotonic()
        self._resume()
        self._drop_edge = DropEdge(self.model, recipe.drop_edge)
        if recipe.drop_edge and execution.torch_compile:
            raise RecipeError(
                "drop_edge", "changes the network between steps; not for torch.compile"
            )
        # Made here, after the averaged copy: it listens to the gates of the network itself.
        self._budget = budget() if budget else None
        if budget and execution.torch_compile:
            raise RecipeError("mac_budget", "listens to gates at each step; not for torch.compile")
        self._parallel = processes.wrap(self.model)
        self._forward = torch.compile(self._parallel) if execution.torch_compile else self._parallel

    @property
    def result(self) -> nn.Module:
        """The network that is evaluated and kept: the averaged one, if the recipe averages."""
        return self.averaged.module if self.averaged is not None else self.model

    @property
    def total_steps(self) -> int:
        return self.recipe.epochs * self.batches.steps_per_epoch

    @property
    def seconds(self) -> float:
        """Wall-clock time of training, earlier attempts included."""
        return self._seconds_before + time.monotonic() - self._resumed_at

    def fit(self) -> list[Record]:
        """Trains to the end; returns the metrics, one record an epoch.

        Raises: DivergedError, DataError, StorageError; the last good checkpoint stays.
        """
        per_epoch = self.batches.steps_per_epoch
        self.observer.on_start(self.step, self.total_steps, per_epoch)
        while self.step < self.total_steps:
            epoch, start = divmod(self.step, per_epoch)
            for micro_batches in self.batches.epoch(epoch, start):
                self._train_step(micro_batches)
                if self.step % per_epoch == 0:
                    self._end_epoch(epoch)
                if self._checkpoint_is_due():
                    self._save()
        return self.history

    def _train_step(self, micro_batches: list[B]) -> None:
        self.model.train()
        # Dropout and the like draw from generators that are seeded anew every step, so their
        # state is no part of a checkpoint.
        seed = derive_seed(self.batches.seed, "step", self.step)
        _seed_generators(self.processes, seed)
        self.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, Tensor] = {}
        with self._drop_edge.step(seed):
            for index, batch in enumerate(micro_batches):
                with self._synchronized(is_last=index + 1 == len(micro_batches)):
                    losses = self._losses(self._forward, batch)
                    (losses[TOTAL] / len(micro_batches)).backward()
                for name, part in losses.items():
                    sums[name] = sums.get(name, 0) + part.detach() / len(micro_batches)
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = get_total_norm(gradients)
        means = self.processes.sum(torch.stack(list(sums.values()))) / self.processes.world
        losses = dict(zip(sums, means.tolist(), strict=True))
        # Every process has the same averaged gradients and summed loss: all stop, or none.
        if not (math.isfinite(losses[TOTAL]) and bool(torch.isfinite(norm))):
            self._stop(micro_batches, seed)
        if self.recipe.clip_norm is not None:
            clip_grads_with_norm_(self.model.parameters(), self.recipe.clip_norm, norm)
        self.optimizer.step()
        self.scheduler.step()
        if self.averaged is not None:
            self.averaged.update_parameters(self.model)
        self.step += 1
        for name, loss in losses.items():
            self._loss_sums[name] = self._loss_sums.get(name, 0.0) + loss
        self.observer.on_step(self.step, losses[TOTAL])

    def _losses(self, forward: Callable[..., Any], batch: B) -> dict[str, Tensor]:
        """The whole loss, and its terms where the task has several."""
        if self.execution.channels_last:
            batch = self.task.channels_last(batch)
        with self.execution.autocast(self.processes.device):
            terms = self.task.losses(forward, batch)
        first, *others = terms.values()
        loss = sum(others, start=first)
        if self._budget is not None:
            loss = loss + self._budget.loss()
        return {TOTAL: loss, **terms} if others else {TOTAL: loss}

    def _synchronized(self, *, is_last: bool) -> AbstractContextManager[Any]:
        """Gradients of all but the last micro-batch are added up without being exchanged."""
        if isinstance(self._parallel, nn.parallel.DistributedDataParallel) and not is_last:
            return self._parallel.no_sync()
        return nullcontext()

    def _stop(self, micro_batches: list[B], seed: int) -> None:
        """Raises the error of the process that finds the most precise cause."""
        _seed_generators(self.processes, seed)  # the same dropout, the same sampled boxes
        epoch, step = divmod(self.step, self.batches.steps_per_epoch)
        when = f"epoch {epoch + 1}, step {step + 1} of {self.batches.steps_per_epoch}"
        self.optimizer.zero_grad(set_to_none=True)
        causes = [
            cause
            for batch in micro_batches
            if (cause := first_cause(self.model, batch[0], partial(self._loss_alone, batch)))
        ]
        all_causes = [cause for part in self.processes.gather(causes) for cause in part]
        where, what = all_causes[0] if all_causes else ("", "the norm of all gradients together")
        raise DivergedError(f"{when}: {describe(where, what)}", where)

    def _loss_alone(self, batch: B) -> Tensor:
        return self._losses(self.model, batch)[TOTAL]

    def _end_epoch(self, epoch: int) -> None:
        per_epoch = self.batches.steps_per_epoch
        self.processes.share_buffers(self.result)
        record: Record = {
            "epoch": epoch + 1,
            "step": self.step,
            **{name: total / per_epoch for name, total in self._loss_sums.items()},
            **self.task.evaluate(self.result, self.processes),
            "lr": float(self.scheduler.get_last_lr()[0]),
            "seconds": round(self.seconds, 3),
        }
        self._loss_sums = {}
        self.history.append(record)
        self.observer.on_epoch(record, self.history)

    def _checkpoint_is_due(self) -> bool:
        due = time.monotonic() - self._saved_at >= self.execution.checkpoint_seconds
        return self.processes.is_first and (due or self.step == self.total_steps)

    def _save(self) -> None:
        state = {
            "identity": self.identity,
            "step": self.step,
            "model": self.model.state_dict(),
            "averaged": None if self.averaged is None else self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "history": self.history,
            "loss_sums": self._loss_sums,
            "seconds": self.seconds,
        }
        save_checkpoint(self.folder, self.step, state)
        self._saved_at = time.monotonic()

    def _resume(self) -> None:
        found = load_checkpoint(self.folder) if self.processes.is_first else (None, [])
        state, damaged = self.processes.from_first(found)
        if state is None:
            if damaged:
                raise StorageError(
                    f"all checkpoints in {self.folder} are damaged; remove the folder to begin anew"
                )
            return
        if state["identity"] != self.identity:
            raise StorageError(
                f"the checkpoint in {self.folder} belongs to another spec, recipe, seed or data "
                f"({state['identity']}, not {self.identity}); use another run folder"
            )
        self.model.load_state_dict(state["model"])
        if self.averaged is not None:
            self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.step, self.history = state["step"], state["history"]
        self._loss_sums, self._seconds_before = state["loss_sums"], state["seconds"]
        self.observer.on_resume(self.step, damaged)


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """SGD in two groups: with weight decay, and (`no_weight_decay`) without."""
    decayed: list[nn.Parameter] = []
    undecayed: list[nn.Parameter] = []
    for name, parameter, group in parameter_groups(model):
        del name
        (undecayed if group in recipe.no_weight_decay else decayed).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": undecayed, "weight_decay": 0.0},
    ]
    return torch.optim.SGD(
        [group for group in groups if group["params"]],
        lr=recipe.lr,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
    )


def parameter_groups(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, str]]:
    """Every parameter with its name and its group for weight decay.

    norm: of batch norms; bias: other biases; edges: learned edge weights and thresholds, which
    belong to no layer; weight: all else.
    """
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if isinstance(module, BATCH_NORMS):
                group = "norm"
            elif name == "bias":
                group = "bias"
            elif parameter.ndim <= 1:
                group = "edges"
            else:
                group = "weight"
            yield f"{prefix}.{name}".lstrip("."), parameter, group


def make_scheduler(
    optimizer: torch.optim.Optimizer, recipe: Recipe, steps_per_epoch: int
) -> LRScheduler:
    """Linear from lr / warm-up steps to lr, a step at a time; then half a cosine to 0, or drops."""
    warmup = round(recipe.warmup_epochs * steps_per_epoch)
    main: LRScheduler
    if recipe.lr_drops:
        milestones = [epoch * steps_per_epoch - warmup for epoch in recipe.lr_drops]
        main = MultiStepLR(optimizer, milestones, gamma=LR_DROP)
    else:
        main = CosineAnnealingLR(optimizer, max(1, recipe.epochs * steps_per_epoch - warmup))
    if warmup < 2:
        return main
    linear = LinearLR(optimizer, start_factor=1 / warmup, total_iters=warmup - 1)
    return SequentialLR(optimizer, [linear, main], milestones=[warmup])


def _averaged(model: nn.Module, recipe: Recipe) -> AveragedModel | None:
    if recipe.ema_decay is None:
        return None
    average = get_ema_multi_avg_fn(recipe.ema_decay)
    return AveragedModel(model, multi_avg_fn=average, use_buffers=True)


def _seed_generators(processes: Processes, seed: int) -> None:
    """torch.manual_seed takes 0.14 ms: it visits every back end. These take microseconds."""
    seed = derive_seed(seed, processes.rank)
    torch.default_generator.manual_seed(seed)
    if processes.device.type == "cuda":
        torch.cuda.default_generators[torch.cuda.current_device()].manual_seed(seed)
