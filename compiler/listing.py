"""What runs, as text for reading: the fx nodes and the Python that torch.fx makes of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import fx

NETWORK = "network"


def fx_listing(model: fx.GraphModule) -> str:
    """The fx nodes of the network and of each of its stages."""
    return "\n".join(f"== {name}\n{part.graph}\n" for name, part in _parts(model))


def code_listing(model: fx.GraphModule, stages: Sequence[str] | None = None) -> str:
    """The forward functions of the network and its stages, or of the named stages."""
    chosen = (part for part in _parts(model) if stages is None or part[0] in stages)
    return "\n".join(f"# == {name}\n{part.code.strip()}\n" for name, part in chosen)


def _parts(model: fx.GraphModule) -> Iterator[tuple[str, fx.GraphModule]]:
    yield NETWORK, model
    for name, child in model.named_children():
        if isinstance(child, fx.GraphModule):
            yield name, child
