"""What the search `carve` writes while it runs: a log, its plot, and every finished SubNet."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from search.core.errors import SearchError
from search.core.files import parse_json, write_atomically
from search.core.subnet import SubNet
from search.runs.figure import as_png
from search.runs.folder import claim, whole_lines

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

RUN = {"schema": 1, "kind": "stepcarve-search-run"}


@dataclass(frozen=True)
class CarveRun:
    """The directory of one search.

    Attributes:
        path: of the directory.
        identity: what decides the result, as JSON values; SubNets of another search are refused.
        errors: per number of calls, the error of each iteration so far, as the search counts it (`placed.overall`).
    """

    path: Path
    identity: Mapping[str, object]
    errors: dict[int, list[float]] = field(default_factory=dict)

    def start(self, *, resume: bool) -> None:
        """Begin, or go on with the same search behind what it has finished.

        Raises:
            SearchError: there is a search already and `resume` is not set, or it is another one.
        """
        claim(
            self.path / "search.json",
            {**RUN, **self.identity},
            results="calls-*.json",
            resume=resume,
        )
        log, kept = self.path / "log.jsonl", []
        for line in whole_lines(log):
            calls, error = _entry(line, str(log))
            if self._file(calls).exists():
                self.errors.setdefault(calls, []).append(error)
                kept.append(line)
        write_atomically(log, b"".join(kept))

    def finished(self, calls: int) -> SubNet | None:
        """The finished SubNet with that many calls, or None."""
        path = self._file(calls)
        return SubNet.load(path) if path.exists() else None

    def log(self, calls: int, iteration: int, error: float) -> None:
        """Add one iteration."""
        self.errors.setdefault(calls, []).append(error)
        with (self.path / "log.jsonl").open("a", encoding="utf-8") as file:
            line = {"calls": calls, "iteration": iteration, "error": error}
            file.write(json.dumps(line) + "\n")

    def save(self, calls: int, subnet: SubNet) -> None:
        """Store a finished SubNet, and draw the run so far."""
        subnet.save(self._file(calls))
        write_atomically(self.path / "run.png", _plot(self.errors))

    def _file(self, calls: int) -> Path:
        return self.path / f"calls-{calls}.json"


def _entry(line: bytes, source: str) -> tuple[int, float]:
    entry = parse_json(line, source)
    try:
        return int(entry["calls"]), float(entry["error"])
    except (KeyError, TypeError, ValueError) as error:
        msg = f"{source!r} has a line that lacks or garbles {error}; give another directory"
        raise SearchError(msg) from error


def _plot(errors: Mapping[int, list[float]]) -> bytes:
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(
        xlabel="iteration", ylabel="relative L2 (square of the mean root)", yscale="log"
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for calls, values in sorted(errors.items()):
        axes.plot(range(1, len(values) + 1), values, label=f"{calls} calls")
    if errors:
        axes.legend()
    return as_png(figure)
