"""The directory of one search for layers: what it is of, and every loss as soon as it is measured."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from search.core.errors import SearchError
from search.core.files import parse_json, write_atomically
from search.runs.folder import claim, whole_lines

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

IDENTITY = "run.json"
FULL = "full.json"
TUPLES = "tuples.safetensors"
LOSSES = "losses.jsonl"
SCORES = "scores.json"
ADDITIVITY = "additivity.json"
RUN = {"schema": 1, "kind": "stepcarve-laptop-run"}

Known = dict[tuple[str, frozenset[str]], tuple[float, ...]]
"""Losses by criterion and names of the layers that are removed: one per tuple, or one over all."""


@dataclass(frozen=True)
class Store:
    """A directory; see the names of the files above."""

    path: Path

    def begin(self, identity: Mapping[str, Any], *, resume: bool) -> Known:
        """What has been measured so far, by a search of the same `identity`; nothing if not `resume`.

        Raises:
            SearchError: there is a search already and `resume` is not set, or it is another one.
        """
        claim(self.path / IDENTITY, {**RUN, **identity}, results=LOSSES, resume=resume)
        return self._read()

    def add(
        self, criterion: str, losses: Iterable[tuple[Iterable[str], tuple[float, ...]]]
    ) -> None:
        """Write losses behind the others: one line of JSON for each set of layers."""
        lines = [
            json.dumps({"criterion": criterion, "removed": sorted(names), "losses": parts}) + "\n"
            for names, parts in losses
        ]
        with (self.path / LOSSES).open("a", encoding="utf-8") as file:
            file.writelines(lines)

    def conclude(self, layers: Sequence[Mapping[str, Any]], additivity: Mapping[str, Any]) -> None:
        """Write each layer's share and score, and how nearly the scores add up."""
        scores = {"schema": 1, "kind": "stepcarve-laptop-scores", "layers": layers}
        sums = {"schema": 1, "kind": "stepcarve-laptop-additivity", **additivity}
        for name, content in ((SCORES, scores), (ADDITIVITY, sums)):
            write_atomically(self.path / name, json.dumps(content, indent=1) + "\n")

    def _read(self) -> Known:
        """The losses; a last line that was cut off is not one, and is taken away."""
        file = self.path / LOSSES
        lines = whole_lines(file)
        found = dict(_losses(line, str(file)) for line in lines)
        write_atomically(file, b"".join(lines))
        return found


def _losses(line: bytes, source: str) -> tuple[tuple[str, frozenset[str]], tuple[float, ...]]:
    entry = parse_json(line, source)
    try:
        key = str(entry["criterion"]), frozenset(map(str, entry["removed"]))
        parts = tuple(map(float, entry["losses"]))
    except (KeyError, TypeError, ValueError) as error:
        msg = (
            f"{source!r} has a line that is wrong or incomplete at {error}; give another directory"
        )
        raise SearchError(msg) from error
    if not parts or not all(map(math.isfinite, parts)):
        msg = f"{source!r} has the losses {list(parts)}; give another directory"
        raise SearchError(msg)
    return key, parts
