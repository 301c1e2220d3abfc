"""From a spec to a network. The only package that knows both the language and the runtime.

`import compiler` stays light: torch is imported when `compile` or `count` is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from compiler.analysis import analyze as analyze

if TYPE_CHECKING:
    from compiler.complexity import Complexity as Complexity
    from compiler.complexity import count as count
    from compiler.driver import compile as compile

_LAZY = {"compile": "driver", "count": "complexity", "Complexity": "complexity"}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
