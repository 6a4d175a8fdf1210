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
        errors: per part of the search, the error of each iteration so far, as the search counts it (`placed.overall`).
    """

    path: Path
    identity: Mapping[str, object]
    errors: dict[str, list[float]] = field(default_factory=dict)

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
            part, error = _entry(line, str(log))
            if self._file(part).exists():
                self.errors.setdefault(part, []).append(error)
                kept.append(line)
        write_atomically(log, b"".join(kept))

    def finished(self, part: str) -> SubNet | None:
        """The SubNet of a part of the search that is finished, or None."""
        path = self._file(part)
        return SubNet.load(path) if path.exists() else None

    def log(self, part: str, iteration: int, error: float) -> None:
        """Add one iteration."""
        self.errors.setdefault(part, []).append(error)
        with (self.path / "log.jsonl").open("a", encoding="utf-8") as file:
            line = {"part": part, "iteration": iteration, "error": error}
            file.write(json.dumps(line) + "\n")

    def save(self, part: str, subnet: SubNet) -> None:
        """Store a finished SubNet, and draw the run so far."""
        subnet.save(self._file(part))
        write_atomically(self.path / "run.png", _plot(self.errors))

    def _file(self, part: str) -> Path:
        return self.path / f"{part}.json"


def _entry(line: bytes, source: str) -> tuple[str, float]:
    entry = parse_json(line, source)
    try:
        return str(entry["part"]), float(entry["error"])
    except (KeyError, TypeError, ValueError) as error:
        msg = (
            f"{source!r} has a line that is wrong or incomplete at {error}; give another directory"
        )
        raise SearchError(msg) from error


def _plot(errors: Mapping[str, list[float]]) -> bytes:
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(
        xlabel="iteration", ylabel="relative L2 (square of the mean root)", yscale="log"
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for part, values in sorted(errors.items()):
        axes.plot(range(1, len(values) + 1), values, label=part)
    if errors:
        axes.legend()
    return as_png(figure)
