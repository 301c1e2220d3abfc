"""How the keyword-only constructor arguments of blocks, stems, heads and routers become YAML.

`compiler/catalog.py` reads these annotations; nothing here is needed to run a network.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Param:
    """Documentation and bounds of one parameter: `groups: Annotated[int, Param("...", ge=1)]`."""

    description: str
    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
