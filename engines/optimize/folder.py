"""The folder of one run: its settings, its lock, and where everything lies."""

from __future__ import annotations

import json
import os
import shutil
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from engines.errors import EngineError
from search.core.files import parse_json, write_atomically
from search.runs.folder import differing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from engines.optimize.settings import OptimizeSettings

KIND = {"schema": 1, "kind": "stepcarve-optimize"}
LOCK, SETTINGS, TIMES = ".lock", "settings.json", "times.json"


class OptimizeFolder:
    """Where each stage leaves what it made; what is there is finished, for it was renamed into place."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.searches = path / "search"
        self.subnet = path / "subnet.json"
        self.tried = path / "quantised.json"
        self.quality = path / "quality"
        self.engines = path / "engines.json"
        self.result = path / "result.json"
        self.page = path / "index.html"

    def quantised(self, scheme: str) -> Path:
        """The SubNet fitted to its quantised denoiser, and the plan."""
        return self.path / "quantised" / scheme

    def bundle(self, form: str) -> Path:
        """The bundle of the SubNet."""
        return self.path / "bundles" / form

    def full(self, dtype: str) -> Path:
        """The bundle of the full sampler, to measure beside it."""
        return self.path / "full" / dtype

    def parity(self, form: str) -> Path:
        """The report of `verify`."""
        return self.path / "parity" / form

    def bench(self, form: str) -> Path:
        """The figures of `bench`."""
        return self.path / "bench" / form

    @contextmanager
    def claimed(self, settings: OptimizeSettings) -> Iterator[None]:
        """Begin in this folder, or go on with what the same settings have left in it.

        Raises:
            EngineError: it belongs to other settings or to something else, or a run is going on in it.
        """
        self._require_same(settings)
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / LOCK, timeout=0)
        try:
            with lock:
                self._require_same(settings)
                self._sweep()
                record = {**KIND, **settings.to_json()}
                write_atomically(self.path / SETTINGS, json.dumps(record, indent=1) + "\n")
                yield
        except Timeout as error:
            msg = f"another run is using {str(self.path)!r}; wait for it, or give another directory"
            raise EngineError(msg) from error

    def _require_same(self, settings: OptimizeSettings) -> None:
        file = self.path / SETTINGS
        if file.is_file():
            found = parse_json(file.read_bytes(), str(file))
            other = differing({**KIND, **settings.to_json()}, found)
            if other:
                msg = (
                    f"{str(self.path)!r} holds a run that differs in {', '.join(other)}; give the same "
                    "options to continue it, or another directory"
                )
                raise EngineError(msg)
        elif self.path.exists() and (
            not self.path.is_dir()
            or any(not each.name.startswith(".") for each in self.path.iterdir())
        ):
            msg = f"{str(self.path)!r} exists but was not made by optimize; give a new or empty directory"
            raise EngineError(msg)

    def _sweep(self) -> None:
        """Remove what a killed run was writing; an export goes on with its own half of a bundle."""
        places = (".*", "[!.]*/.*", "search/[!.]*/.*")
        for path in [each for place in places for each in self.path.glob(place)]:
            if path.name == LOCK or path.name.endswith(".partial"):
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Note the seconds, and the processor's seconds, that a stage takes."""
        began, busy = time.perf_counter(), _processor_seconds()
        yield
        spent = {
            "seconds": time.perf_counter() - began,
            "processor_seconds": _processor_seconds() - busy,
        }
        write_atomically(self.path / TIMES, json.dumps({**self.times(), stage: spent}, indent=1))

    def times(self) -> dict[str, dict[str, float]]:
        """Of the stages so far."""
        file = self.path / TIMES
        found: dict[str, dict[str, float]] = (
            parse_json(file.read_bytes(), str(file)) if file.is_file() else {}
        )
        return found

    def write(self, place: Path, record: dict[str, Any]) -> None:
        """Write a JSON file."""
        write_atomically(place, json.dumps({**KIND, **record}, indent=1) + "\n")

    def read(self, place: Path) -> dict[str, Any]:
        """Read one."""
        found: dict[str, Any] = parse_json(place.read_bytes(), str(place))
        return found


def _processor_seconds() -> float:
    """Of this process and of those that it waited for."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system
