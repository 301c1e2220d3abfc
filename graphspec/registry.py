"""Names a user may write -> the classes that implement them."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar, cast

T = TypeVar("T", bound=type)
C = TypeVar("C", bound=type)


class Registry(Mapping[str, T], Generic[T]):
    """Classes by name, sorted; `key` reads the name off the class, so it is written once."""

    def __init__(self, noun: str, key: Callable[[T], str]) -> None:
        self.noun, self._key = noun, key
        self._classes: dict[str, T] = {}

    def register(self, cls: C) -> C:
        """Class decorator. A name defined twice is an error that names both modules.

        A class may come twice: by its decorator, and by the entry point of its package.
        """
        entry = cast("T", cls)  # returned as what it came in, so that checkers keep the class
        name = self._key(entry)
        other = self._classes.get(name)
        if other is not None and other is not entry:
            places = f"{other.__module__} and {cls.__module__}"
            raise ValueError(f"two {self.noun}s are named {name!r}: {places}; rename one")
        self._classes[name] = entry
        return cls

    def __getitem__(self, name: str) -> T:
        if name in self._classes:
            return self._classes[name]
        close = difflib.get_close_matches(name, self._classes, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise KeyError(f"no {self.noun} {name!r}{hint} (known: {', '.join(self)})")

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._classes))

    def __len__(self) -> int:
        return len(self._classes)


def plugins(group: str) -> Iterator[tuple[str, Any]]:
    """What other packages add, by name. One that does not load is left out, with a warning."""
    for entry_point in entry_points(group=group):
        try:
            loaded = entry_point.load()
        except Exception as error:
            owner = entry_point.dist.name if entry_point.dist else entry_point.value
            warnings.warn(
                f"{entry_point.name!r} of the package {owner} is left out: {entry_point.value} "
                f"does not load ({type(error).__name__}: {error})",
                stacklevel=2,
            )
        else:
            yield entry_point.name, loaded
