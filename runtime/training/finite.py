"""Finds the module in which numbers stop being finite."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def is_finite(value: Any) -> bool:
    """Whether no tensor in a value holds an infinity or a NaN."""
    if isinstance(value, Tensor):
        return not value.is_floating_point() or bool(torch.isfinite(value).all())
    if isinstance(value, dict):
        return all(is_finite(part) for part in value.values())
    if isinstance(value, tuple | list):
        return all(is_finite(part) for part in value)
    return True


def first_cause(
    model: nn.Module, inputs: Any, loss_of_batch: Callable[[], Tensor]
) -> tuple[str, str] | None:
    """Runs a batch once more: (module, what) that stopped being finite first, None if all is."""
    if not is_finite(inputs):
        return "data", "the batch itself"
    for name, tensor in model.state_dict().items():
        if not is_finite(tensor):
            return name, f"the value of {name}"
    with _first_not_finite(model) as found:
        loss = loss_of_batch()
        if not found and is_finite(loss):
            loss.backward()
    if found:
        return found[0]
    if not is_finite(loss):
        return "", "the loss (what the network puts out is finite)"
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not is_finite(parameter.grad):
            return name, f"the gradient of {name}"
    return None


def describe(where: str, what: str) -> str:
    """The message for a cause: stage and node by name, and the usual cures."""
    parts = where.split(".")
    place = f" (stage {parts[0]}, node {parts[1]})" if len(parts) > 2 else ""
    return (
        f"{what}{place} is the first thing that is not finite; the usual cures are a lower lr, "
        "a longer warm-up, or clip_norm"
    )


@contextmanager
def _first_not_finite(model: nn.Module) -> Generator[list[tuple[str, str]]]:
    """Collects (module, what), in the order in which it happens, forward and backward."""
    found: list[tuple[str, str]] = []

    def hook(name: str) -> Callable[..., None]:
        def look(module: nn.Module, inputs: Any, output: Any) -> None:
            if not is_finite(inputs):
                found.append((name, f"what {name} gathers"))
            elif not is_finite(output):
                found.append((name, f"the output of {name} ({type(module).__name__})"))
            elif isinstance(output, Tensor) and output.requires_grad:
                output.register_hook(look_back)

        def look_back(gradient: Tensor) -> None:
            if not is_finite(gradient):
                found.append((name, f"the gradient that reaches the output of {name}"))

        return look

    leaves = [(name, module) for name, module in model.named_modules() if _is_leaf(name, module)]
    handles = [module.register_forward_hook(hook(name)) for name, module in leaves]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _is_leaf(name: str, module: nn.Module) -> bool:
    return bool(name) and not any(True for _ in module.children())
