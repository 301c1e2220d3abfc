"""Modules whose constructor call is remembered, so that the source backend can write it down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from torch import nn

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Construction:
    """The call `cls(*args, **kwargs)` that made a module."""

    cls: type[nn.Module]
    args: tuple[Any, ...]
    kwargs: tuple[tuple[str, Any], ...]


# Beside the modules, not on them: their pickles and copies stay what they were.
_CONSTRUCTIONS: WeakKeyDictionary[nn.Module, Construction] = WeakKeyDictionary()


def construct(cls: Callable[..., M], *args: Any, **kwargs: Any) -> M:
    """The module `cls(*args, **kwargs)`, whose `construction_of` is known as long as it lives."""
    module = cls(*args, **kwargs)
    _CONSTRUCTIONS[module] = Construction(type(module), args, tuple(kwargs.items()))
    return module


def construction_of(module: nn.Module) -> Construction | None:
    """How `construct` made `module`; None for copies, and for modules made in another way."""
    return _CONSTRUCTIONS.get(module)
