"""What is to be reached, and the commands that measure it: `python -m tests.bench.goals`.

Each goal is a ratio of two networks that take turns in one process (`graphc bench`), or of two
commands that take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EXAMPLES, SPECS = "examples", "tests/bench/specs"
GRAPHC = (sys.executable, "-c", "import sys; from compiler.cli import main; sys.exit(main())")
ROUNDS = 5

Results = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Goal:
    """A figure, its goal, and what it is made of: the results of `commands` (of `graphc`)."""

    name: str
    what: str
    goal: float
    commands: tuple[str, ...]
    figure: Callable[[Results], float]


def _of(key: str) -> Callable[[Results], float]:
    return lambda results: results[-1]["ratio"][key]


def _against_alive(results: Results) -> float:
    """Time over the time of all, divided by the share of multiply-adds that is alive."""
    return results[0]["ratio"]["time"] / results[0]["ratio"]["macs"]


def _share_of_overhead(results: Results) -> float:
    """(ours - static) / (products - static)."""
    ours, of_products = (result["ratio"]["time"] for result in results)
    return (ours - 1) / (ours / of_products - 1)


def _bench(
    name: str, what: str, goal: float, command: str, figure: Callable[[Results], float]
) -> Goal:
    return Goal(name, what, goal, (f"bench {command}",), figure)


def _goals() -> Iterator[Goal]:
    resnet, dgnet = f"{EXAMPLES}/resnet50.yaml", f"{EXAMPLES}/dgnet_resnet50.yaml"
    twin = f"{resnet} --against torchvision:resnet50 --batch 2"
    small = "--train --batch 8 --set input_shape=[3,112,112] --channels-last"
    yield _bench("static_train", "ResNet50 / torchvision's, train", 1.02, f"{twin} --train", TIME)
    yield _bench("static_infer", "ResNet50 / torchvision's, inference", 1.02, twin, TIME)
    yield _bench(
        "static_memory",
        "ResNet50 / torchvision's, peak memory of a train step",
        1.01,
        f"{resnet} --against torchvision:resnet50 {small}",
        MEMORY,
    )
    randwire = f"{EXAMPLES}/randwire_ws_small.yaml --against products --train"
    for batch in (4, 16):
        yield _bench(
            f"randwire_{batch}",
            f"RandWire WS small / a loop over a list, train, batch {batch}",
            0.7,
            f"{randwire} --batch {batch} --channels-last",
            TIME,
        )
    step = f"{dgnet} --against {resnet} --train --batch 2 --channels-last"
    yield _bench("dgnet", "DG-ResNet50 / ResNet50, train", 1.08, step, TIME)
    yield _bench("dgnet_compiled", "the same, both compiled", 1.05, f"{step} --compile", TIME)
    yield _bench(
        "dgnet_residual",
        "DG-ResNet50 / the same blocks in the residual wiring, train",
        1.08,
        f"{dgnet} --against {SPECS}/resnet50_residual.yaml --train --batch 2 --channels-last",
        TIME,
    )
    stage = f"{SPECS}/stage3_routed.yaml --against {SPECS}/stage3_static.yaml --train --batch 2"
    stage = f"{stage} --channels-last"
    yield _bench("stage3", "DG-ResNet101 stage 3 / static, train", 1.15, stage, TIME)
    yield _bench("stage3_compiled", "the same, both compiled", 1.05, f"{stage} --compile", TIME)
    routed = f"bench {SPECS}/separable_routed.yaml --train --batch 4 --against"
    yield Goal(
        "separable",
        "32 separable nodes, overhead of ours / of products, train",
        0.30,
        (f"{routed} {SPECS}/separable_static.yaml", f"{routed} products"),
        _share_of_overhead,
    )
    yield _bench(
        "memory",
        "DG-ResNet50 / ResNet50, peak memory of a train step",
        1.05,
        f"{dgnet} --against {resnet} {small}",
        MEMORY,
    )
    yield _bench(
        "memory_residual",
        "DG-ResNet50 / its residual wiring, peak memory of a train step",
        1.05,
        f"{dgnet} --against {SPECS}/resnet50_residual.yaml {small}",
        MEMORY,
    )
    deep = f"{EXAMPLES}/dgnet_resnet101.yaml --against {EXAMPLES}/resnet101.yaml"
    yield _bench(
        "compile_time",
        "DG-ResNet101 / ResNet101, first compiled step",
        1.5,
        f"{deep} --train --batch 2 --channels-last --compile --set input_shape=[3,64,64]",
        _of("first_step"),
    )
    for batch in (1, 32):
        for closed in (0.25, 0.5, 0.75):
            yield _bench(
                f"sparse_{batch}_{closed}",
                f"sparse / (masked x MACs alive), batch {batch}, p(closed) = {closed}",
                1.10,
                f"{dgnet} --mode sparse --close {closed} --against masked --batch {batch} "
                "--channels-last",
                _against_alive,
            )
    yield _bench(
        "sparse_open",
        "sparse / masked, nothing closed, batch 8",
        1.05,
        f"{dgnet} --mode sparse --close 0 --against masked --batch 8 --channels-last",
        TIME,
    )
    mobile = f"{EXAMPLES}/dgnet_mobilenet_v2.yaml --against {EXAMPLES}/mobilenet_v2.yaml"
    for batch in (1, 32):
        yield _bench(
            f"mobilenet_{batch}",
            f"DG-MobileNetV2 masked / static, batch {batch}",
            1.08,
            f"{mobile} --batch {batch} --channels-last",
            TIME,
        )


TIME, MEMORY = _of("time"), _of("memory")
GOALS = {goal.name: goal for goal in _goals()}


def measure(goal: Goal, threads: int) -> dict[str, Any]:
    """The figure of a goal, with the results that it was computed from."""
    results: list[dict[str, Any]] = []
    for command in goal.commands:
        words = [*shlex.split(command), "--threads", str(threads), "--rounds", str(ROUNDS)]
        done = subprocess.run([*GRAPHC, *words, "--json"], capture_output=True, check=True)
        results.append(json.loads(done.stdout))
    return {"figure": goal.figure(results), "goal": goal.goal, "results": results}


def compile_against_import() -> dict[str, Any]:
    """Wall time of `graphc compile` of DG-ResNet101 over that of importing torch, in turns."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    commands = [
        [*GRAPHC, "compile", f"{EXAMPLES}/dgnet_resnet101.yaml", "-o", "build/goals"],
        [sys.executable, "-c", "import torch"],
    ]
    ratios: list[float] = []
    for round in range(ROUNDS + 1):
        seconds: list[float] = []
        for command in commands:
            start = time.perf_counter()
            subprocess.run(command, capture_output=True, check=True, env=environment)
            seconds.append(time.perf_counter() - start)
        if round:  # the first one reads the files
            ratios.append(seconds[0] / seconds[1])
    return {"figure": statistics.median(ratios), "goal": 1.5, "ratios": ratios}


def main() -> None:
    """Measures the named goals, or all; prints a line each, and keeps all in a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"{', '.join((*GOALS, 'compile'))}")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("build/goals.json"))
    arguments = parser.parse_args()
    kept = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    for name in arguments.names or (*GOALS, "compile"):
        if name == "compile":
            kept[name], what = compile_against_import(), "graphc compile / import torch"
        else:
            kept[name], what = measure(GOALS[name], arguments.threads), GOALS[name].what
        line = f"{name:18} {what:64} {kept[name]['goal']:5.2f} {kept[name]['figure']:7.3f}"
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(kept, indent=1))


if __name__ == "__main__":
    main()
