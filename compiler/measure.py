"""What networks take: time in interleaved rounds of one process, and peak memory of one step.

Compared networks take turns, so that whatever else a machine does meets all of them. Reported
are medians, and the median of the rounds' ratios.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils.flop_counter import FlopCounterMode

from compiler.complexity import count
from graphspec import NetworkGraph
from runtime.aggregate import LearnedSum, RoutedSum
from runtime.gating import pin_routes
from runtime.outputs import stages, wiring, with_outputs
from runtime.weighted_sum import Tap

WARM_UP = 2
MB = 2**20


@dataclass(frozen=True)
class Contender:
    """A network and the step that is timed; `macs` of the whole batch where they are known."""

    name: str
    model: nn.Module
    step: Callable[[], object]
    macs: int | None = None


@dataclass(frozen=True)
class Measured:
    """Medians over the rounds; `first_seconds` of the first step, which compiles if asked to."""

    name: str
    time_ms: float
    cpu_time_ms: float
    memory_mb: float
    first_seconds: float
    macs: int | None


@dataclass(frozen=True)
class Comparison:
    """Two contenders; ratios are first over second."""

    measured: tuple[Measured, ...]
    ratio: dict[str, float]


def compare(contenders: Sequence[Contender], *, rounds: int, device: torch.device) -> Comparison:
    """Runs the contenders in turns."""
    firsts = [_first(contender, device) for contender in contenders]
    peaks = [_peak_memory(contender, device) for contender in contenders]
    times: list[list[tuple[float, float]]] = [[] for _ in contenders]
    for _ in range(rounds):
        for index, contender in enumerate(contenders):
            times[index].append(_timed(contender.step, device))
    measured = tuple(
        Measured(
            contender.name,
            1e3 * statistics.median(wall for wall, _ in ours),
            1e3 * statistics.median(cpu for _, cpu in ours),
            peak / MB,
            first,
            contender.macs,
        )
        for contender, ours, peak, first in zip(contenders, times, peaks, firsts, strict=True)
    )
    if len(contenders) < 2:
        return Comparison(measured, {})
    pairs = list(zip(times[0], times[1], strict=True))
    ratio = {
        "time": statistics.median(a[0] / b[0] for a, b in pairs),
        "cpu_time": statistics.median(a[1] / b[1] for a, b in pairs),
        "memory": peaks[0] / peaks[1],
        "first_step": firsts[0] / firsts[1],
    }
    if contenders[0].macs and contenders[1].macs:
        ratio["macs"] = contenders[0].macs / contenders[1].macs
    return Comparison(measured, ratio)


def train_step(model: nn.Module, images: Tensor, num_classes: int) -> Callable[[], object]:
    """Forward, backward and an SGD step with momentum, on random labels."""
    labels = torch.arange(len(images), device=images.device) % num_classes
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return step


def inference_step(model: nn.Module, images: Tensor) -> Callable[[], object]:
    """One forward pass without gradients."""

    def step() -> Tensor:
        with torch.inference_mode():
            return model(images)

    return step


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures were measured on."""
    name = platform.processor()
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    elif Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((li.partition(":")[2].strip() for li in lines if "model name" in li), name)
    return {
        "device": name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "platform": platform.platform(),
    }


class Products(nn.Module):
    """A weighted sum as re-implementations write it: a product and an addition an edge.

    Source: RandWire re-implementations; `sum` is the module whose weights it reads.
    Shape: S values (B, C, H, W) -> (B, C, H, W)
    """

    def __init__(self, sum: LearnedSum | RoutedSum) -> None:
        super().__init__()
        self.sum = sum

    def forward(self, values: list[Tensor], adjacency: Tensor | None = None) -> Tensor:
        if isinstance(self.sum, LearnedSum):
            total = self._factor(0) * values[0]
            for index in range(1, len(values)):
                total = total + self._factor(index) * values[index]
            return total if self.sum.divisor == 1 else total / self.sum.divisor
        assert adjacency is not None
        total = None
        for source, value in zip(self.sum.sources, values, strict=True):
            weight = adjacency[:, self.sum.node, source].to(value.dtype) / self.sum.divisor
            product = weight[:, None, None, None] * value
            total = product if total is None else total + product
        assert total is not None
        return total

    def _factor(self, index: int) -> Tensor | float:
        assert isinstance(self.sum, LearnedSum)
        fixed = self.sum.fixed[index]
        if fixed is not None:
            return fixed
        weight = self.sum.weight[self.sum.fixed[:index].count(None)]
        return torch.sigmoid(weight) if self.sum.function == "sigmoid" else weight


def with_products(model: fx.GraphModule) -> fx.GraphModule:
    """Replaces, in place, every weighted sum by `Products` and every tap by nothing."""
    for name, module in list(model.named_modules()):
        if isinstance(module, LearnedSum | RoutedSum):
            products = Products(module)
            if hasattr(module, "wiring"):
                products.wiring = module.wiring
            model.set_submodule(name, products)
        elif isinstance(module, Tap):
            model.set_submodule(name, nn.Identity())
    return model


def close_nodes(model: fx.GraphModule, share: float, batch: int, seed: int) -> None:
    """Pins routes where each block is closed, with all its input edges, for `share` of samples."""
    generator = torch.Generator().manual_seed(seed)
    for name, stage in stages(model):
        size = len(wiring(stage).nodes)
        if not any(key.startswith("gate") for key, _ in stage.named_children()):
            continue
        mask = torch.ones(batch, size, size, dtype=torch.bool).tril(-1)
        inputs = sum(1 for node in stage.graph.nodes if node.op == "placeholder")
        closed = torch.rand(batch, size, generator=generator) < share
        closed[:, :inputs], closed[:, -1] = False, False
        mask &= ~closed.unsqueeze(2) & ~closed.unsqueeze(1)
        device = next(stage.parameters()).device
        pin_routes(model, {name: mask.to(device)})


@torch.no_grad()
def living_macs(graph: NetworkGraph, model: fx.GraphModule, images: Tensor) -> int:
    """MACs that a batch needs: of open edges, and of blocks with an open one."""
    _, matrices, _ = with_outputs(model)(images)
    shares: dict[tuple[str, str, bool], float] = {}
    for name, stage in stages(model):
        matrix = matrices[name] != 0
        for index, sources, _ in wiring(stage).rows:
            is_open = matrix[:, index, list(sources)].double()
            node = wiring(stage).nodes[index]
            shares[name, node, True] = is_open.mean().item()
            is_output = index == len(wiring(stage).nodes) - 1
            shares[name, node, False] = 1.0 if is_output else is_open.amax(1).mean().item()
    return sum(
        round(
            shares.get((row.stage, row.node, row.part == "aggregate"), 1.0) * row.macs * len(images)
        )
        for row in count(graph).rows
    )


def macs_of(model: nn.Module, images: Tensor) -> int:
    """MACs of one forward pass of any module, by torch's flop counter."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(images)
    return counter.get_total_flops() // 2


def _first(contender: Contender, device: torch.device) -> float:
    """Seconds of the first step; warms up after it."""
    wall, _ = _timed(contender.step, device)
    for _ in range(WARM_UP - 1):
        contender.step()
    return wall


def _timed(step: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """(wall, CPU) seconds of one step."""
    _synchronize(device)
    wall, cpu = time.perf_counter(), time.process_time()
    step()
    _synchronize(device)
    return time.perf_counter() - wall, time.process_time() - cpu


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak_memory(contender: Contender, device: torch.device) -> int:
    """Bytes of weights, and of what one step holds at most besides."""
    gc.collect()
    contender.model.zero_grad(set_to_none=True)
    weights = sum(tensor.nbytes for tensor in contender.model.state_dict().values())
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        contender.step()
        torch.cuda.synchronize(device)
        return weights + torch.cuda.max_memory_allocated(device) - before
    return weights + _cpu_peak(contender.step)


def _cpu_peak(step: Callable[[], object]) -> int:
    """Peak of the bytes that torch allocates on the CPU during a step, by its profiler."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profiler:
        step()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    memory = [event["args"] for event in events if event.get("name") == "[memory]"]
    if not memory:
        return 0
    # The profiler's total goes on from its last use, and misses what was freed in between.
    before = int(memory[0]["Total Allocated"]) - int(memory[0]["Bytes"])
    return max(int(change["Total Allocated"]) for change in memory) - before
