"""`compile`: a spec in, an ordinary `torch.fx.GraphModule` out."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from os import PathLike, fspath

import torch
from torch import fx

from compiler.analysis import analyze
from compiler.lower import lower
from compiler.passes import PIPELINE
from graphspec import NetworkSpec, SpecWarning, load, render


def compile(
    spec: NetworkSpec | str | PathLike[str],
    *,
    device: torch.device | str | None = None,
    passes: Sequence[str] = PIPELINE,
) -> fx.GraphModule:
    """The network of a spec (or of a spec file), with initial weights, in training mode.

    Weights are drawn once, on `device`, from torch's global generator; on the "meta" device
    nothing is allocated.

    Shape: the result maps (B, C, H, W) to (B, num_classes)
    Raises:
        SpecError: when the spec is wrong, with every finding.
    Warns:
        SpecWarning: for what is odd but not wrong, such as a node that is left out.
    Example:
        >>> model = compile("examples/dgnet_tiny.yaml")
        >>> model(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    if not isinstance(spec, NetworkSpec):
        spec = load(fspath(spec))
    graph, findings = analyze(spec, passes=passes)
    for finding in findings:
        warnings.warn(render([finding]), SpecWarning, stacklevel=2)
    with torch.device(device if device is not None else torch.get_default_device()):
        return lower(graph)
