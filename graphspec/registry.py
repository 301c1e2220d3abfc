"""Names a user may write -> the classes that implement them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeVar, cast

T = TypeVar("T", bound=type)
C = TypeVar("C", bound=type)


class Registry(Mapping[str, T], Generic[T]):
    """Classes by name, sorted; `key` reads the name off the class, so it is written once."""

    def __init__(self, noun: str, key: Callable[[T], str]) -> None:
        self.noun, self._key = noun, key
        self._classes: dict[str, T] = {}

    def register(self, cls: C) -> C:
        """Class decorator. A name defined twice is an error that names both modules."""
        entry = cast("T", cls)  # returned as what it came in, so that checkers keep the class
        name = self._key(entry)
        if other := self._classes.get(name):
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
