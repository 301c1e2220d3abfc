"""The wiring rules a stage may name, one file each; file name = YAML kind.

Rules of other packages come in through the entry-point group `graphc.wirings`.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Union

from pydantic import Field

from graphspec.names import KIND_ALONE
from graphspec.registry import plugins
from graphspec.wiring._base import WIRINGS as WIRINGS
from graphspec.wiring._base import Edges as Edges
from graphspec.wiring._base import Wiring as Wiring

for _module in pkgutil.iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
for _, _plugin in plugins("graphc.wirings"):
    WIRINGS.register(_plugin)


if TYPE_CHECKING:
    AnyWiring = Wiring
else:
    AnyWiring = Annotated[
        Annotated[Union[tuple(WIRINGS.values())], Field(discriminator="kind")],
        KIND_ALONE,
    ]
