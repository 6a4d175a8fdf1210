"""A bound on what is loaded at a time."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Generic, TypeVar

from engines.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

Loaded = TypeVar("Loaded")


class Resident(Generic[Loaded]):
    """What is loaded, by key; of more than `most`, those that were used longest ago are given up.

    They are given up before the next is loaded, so that no more than `most` are in memory at any time.
    Threads may share it.
    """

    def __init__(self, most: int | None) -> None:
        if most is not None and most < 1:
            msg = f"{most} graphs may be resident, but one has to be; give --resident 1 or more"
            raise EngineError(msg)
        self._most, self._lock = most, threading.RLock()
        self._held: dict[Hashable, Loaded] = {}  # used longest ago first

    def __contains__(self, key: Hashable) -> bool:
        return key in self._held

    def get(self, key: Hashable, load: Callable[[], Loaded]) -> Loaded:
        """What `key` stands for; `load` makes it if it is not there."""
        with self._lock:
            if key not in self._held:
                while self._most is not None and len(self._held) >= self._most:
                    self._held.pop(next(iter(self._held)), None)
                self._held[key] = load()
            elif self._most is not None:
                self._held[key] = self._held.pop(key)
            return self._held[key]

    def forget(self, key: Hashable) -> None:
        """Give up what `key` stands for, if it is there."""
        with self._lock:
            self._held.pop(key, None)
