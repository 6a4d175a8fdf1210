"""Memory of this process, as Linux counts it."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_STATUS, _MAPS = Path("/proc/self/status"), Path("/proc/self/smaps")
PERIOD = 0.02
"""Seconds between two looks."""


@dataclass(frozen=True)
class Memory:
    """In bytes.

    Attributes:
        own: private pages: allocated or written to.
        mapped: pages of files, each once however often it is mapped.
    """

    own: int
    mapped: int

    @property
    def total(self) -> int:
        """Both."""
        return self.own + self.mapped


def while_running(run: Callable[[], object]) -> Memory | None:
    """Peak private memory of this process during `run`, and its mapped files; None if unknown."""
    if not _STATUS.is_file():
        run()
        return None
    most, done = own_bytes(), threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(PERIOD):
            most = max(most, own_bytes())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        run()
    finally:
        done.set()
        watcher.join()
    with _MAPS.open(encoding="utf-8") as lines:
        return Memory(max(most, own_bytes()), mapped_bytes(lines))


def own_bytes() -> int:
    """Resident anonymous pages of this process."""
    lines = _STATUS.read_text(encoding="utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def mapped_bytes(lines: Iterable[str]) -> int:
    """Resident file-backed pages, from `/proc/self/smaps`.

    Several mappings of one part of a file are the same pages: the one with most of them counts.
    """
    most: dict[tuple[str, ...], int] = {}
    region: tuple[str, ...] = ()
    resident = 0
    for line in lines:
        words = line.split()
        if not words[0].endswith(":"):
            # address, rights, offset, device, inode, path
            region = tuple(words[2:5]) if words[4] != "0" else ()
        elif words[0] == "Rss:":
            resident = int(words[1])
        elif words[0] == "Anonymous:" and region:
            most[region] = max(most.get(region, 0), resident - int(words[1]))
    return 1024 * sum(most.values())
