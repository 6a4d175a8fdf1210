"""What our recipe writes while it runs: a log, its plot, and every SubNet that is done."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from search.errors import SearchError
from search.files import write_atomically
from search.subnet import SubNet

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True)
class RunFolder:
    """The directory of one search.

    Attributes:
        path: of the directory.
        identity: what the search is of, as JSON values; SubNets of another are refused.
        errors: per number of calls, the error of each iteration so far, as the search counts it (`refine.overall`).
    """

    path: Path
    identity: Mapping[str, object]
    errors: dict[int, list[float]] = field(default_factory=dict)

    @property
    def _key(self) -> str:
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()

    def start(self, *, resume: bool) -> None:
        """Begin, or go on with the same search.

        Raises:
            SearchError: the directory holds another search.
        """
        key = self.path / "search.json"
        if resume and key.exists():
            if json.loads(key.read_text(encoding="utf-8")).get("key") != self._key:
                msg = (
                    f"{str(self.path)!r} holds a search with other settings; use the same, or start "
                    "again without --resume"
                )
                raise SearchError(msg)
            return
        for stale in self.path.glob("calls-*.json"):
            stale.unlink()
        write_atomically(key, json.dumps({"key": self._key, **self.identity}, indent=1) + "\n")
        write_atomically(self.path / "log.jsonl", "")

    def finished(self, calls: int) -> SubNet | None:
        """The SubNet of so many calls, if it is done."""
        path = self.path / f"calls-{calls}.json"
        return SubNet.load(path) if path.exists() else None

    def log(self, calls: int, iteration: int, error: float) -> None:
        """Add one iteration."""
        self.errors.setdefault(calls, []).append(error)
        with (self.path / "log.jsonl").open("a", encoding="utf-8") as file:
            line = {"calls": calls, "iteration": iteration, "error": error}
            file.write(json.dumps(line) + "\n")

    def save(self, calls: int, subnet: SubNet) -> None:
        """Keep a SubNet that is done, and draw the run so far."""
        subnet.save(self.path / f"calls-{calls}.json")
        write_atomically(self.path / "run.png", _plot(self.errors))


def _plot(errors: Mapping[int, list[float]]) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(
        xlabel="iteration", ylabel="relative L2 (square of the mean root)", yscale="log"
    )
    for calls, values in sorted(errors.items()):
        axes.plot(range(1, len(values) + 1), values, label=f"{calls} calls")
    if errors:
        axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
