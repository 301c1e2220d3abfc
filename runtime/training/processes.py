"""The processes that train together, and the device of this one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from runtime.training.errors import DeviceError


@dataclass(frozen=True)
class Processes:
    """This process among `world` equals; `rank` 0 writes files and speaks."""

    device: torch.device
    rank: int = 0
    world: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """The module with gradients averaged over all processes."""
        if self.world == 1:
            return model
        ids = [self.device.index] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(model, device_ids=ids)

    def sum(self, values: Tensor) -> Tensor:
        """Element by element over all processes."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def gather(self, value: Any) -> list[Any]:
        """The values that all processes have, by rank."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def share_buffers(self, model: nn.Module) -> None:
        """Gives every process the first one's running statistics.

        During training DDP does so before every forward pass.
        """
        if self.world > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)

    def from_first(self, value: Any) -> Any:
        """The value that the first process has.

        Files are looked for by that one alone: processes that decide for themselves whether to
        resume deadlock when they disagree.
        """
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def close(self) -> None:
        """Leaves the group; nothing to do alone."""
        if self.world > 1 and dist.is_initialized():
            dist.destroy_process_group()


def join(device: str = "auto") -> Processes:
    """Joins the processes that torchrun (or SLURM through it) started; alone without it.

    Accelerate picks the back end and the device and opens the process group. Its wrappers of
    optimizer, scheduler and loader are not used: they cost 0.25 ms a step (1.30 -> 1.55 ms on
    a small network, one CPU core), the scheduler's steps once a process unless told not to,
    and the order of samples is already a function of (seed, epoch, step) here, so that there
    is no sampler state to restore.

    Raises: DeviceError if there is no such device.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from accelerate import PartialState

        state = PartialState(cpu=device == "cpu")
        assert state.device is not None
        return Processes(state.device, state.process_index, state.num_processes)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise DeviceError(f"cannot use the device {device!r}: {reason}") from error
    return Processes(torch.device(device))
