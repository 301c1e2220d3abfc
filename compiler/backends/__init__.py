"""What a compiled network can be written as, one form a file; file name = backend name.

Backends of other packages come in through the entry-point group `graphc.backends`.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module

from compiler.backends._base import BACKENDS as BACKENDS
from compiler.backends._base import Backend as Backend
from compiler.backends._base import EmitError as EmitError
from graphspec.registry import plugins

for _module in pkgutil.iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
for _, _plugin in plugins("graphc.backends"):
    BACKENDS.register(_plugin)
