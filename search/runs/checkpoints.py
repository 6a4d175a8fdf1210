"""What a training writes while it runs: log, plot, checkpoint."""

from __future__ import annotations

import dataclasses
import io
import json
import pickle
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch

from search.core.errors import SearchError
from search.core.files import write_atomically
from search.runs.figure import as_png
from search.runs.folder import differing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from _typeshed import DataclassInstance
    from matplotlib.figure import Figure

LOG = "log.jsonl"
CHECKPOINT = "checkpoint.pt"
SCHEMA = 1
_UNREADABLE = (
    *(OSError, RuntimeError, EOFError, AttributeError, KeyError, TypeError, ValueError),
    pickle.UnpicklingError,
)

Entry = TypeVar("Entry", bound="DataclassInstance")
"""One iteration: numbers."""


@dataclass(frozen=True)
class Checkpoint(Generic[Entry]):
    """All that is needed to resume.

    Attributes:
        identity: what decides the result, as JSON values.
        states: by the names that the folder has for them; when read, on the CPU and mapped from the
            file until they are used.
        done: the iterations so far.
    """

    identity: Mapping[str, object]
    states: Mapping[str, Any]
    done: tuple[Entry, ...]


class CheckpointFolder(ABC, Generic[Entry]):
    """The directory of one run: a line of JSON per iteration, a plot, the last checkpoint.

    Attributes:
        path: of the directory.
        what: the run is.
        entry: what an iteration is written as.
        states: names of a checkpoint's states.
        picture: name of the plot's file.
    """

    what: str
    entry: type[Entry]
    states: tuple[str, ...]
    picture: str

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def draw(self, figure: Figure, done: Sequence[Entry]) -> None:
        """Plot the iterations."""

    def start(self, done: Sequence[Entry]) -> None:
        """Begin the log with the iterations that are `done`."""
        lines = [json.dumps(vars(entry)) + "\n" for entry in done]
        write_atomically(self.path / LOG, "".join(lines))

    def log(self, entry: Entry) -> None:
        """Add one iteration."""
        with (self.path / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(vars(entry)) + "\n")

    def save(self, checkpoint: Checkpoint[Entry]) -> None:
        """Write the checkpoint and the plot, each atomically."""
        buffer = io.BytesIO()
        content = {
            "schema": SCHEMA,
            "identity": json.dumps(checkpoint.identity, sort_keys=True),
            **{name: checkpoint.states[name] for name in self.states},
            "done": [dataclasses.astuple(entry) for entry in checkpoint.done],
        }
        torch.save(content, buffer)
        write_atomically(self.path / CHECKPOINT, buffer.getvalue())
        write_atomically(self.path / self.picture, self._plot(checkpoint.done))

    def load(self, *, resume: bool) -> Checkpoint[Entry] | None:
        """The last checkpoint, None if there is none.

        Raises:
            SearchError: there is a run and `resume` is not set, or the checkpoint is damaged or of
                another schema.
        """
        path = self.path / CHECKPOINT
        if not resume and (path.exists() or (self.path / LOG).exists()):
            msg = (
                f"{str(self.path)!r} holds a {self.what} already; give --resume to continue it, or "
                "another directory"
            )
            raise SearchError(msg)
        if not path.exists():
            return None
        try:
            return self._read(torch.load(path, map_location="cpu", weights_only=True, mmap=True))
        except _UNREADABLE as error:
            reason = " ".join(str(error).split())[:200]
            msg = f"cannot read the checkpoint {str(path)!r} ({reason}); give another directory"
            raise SearchError(msg) from error

    def require_same(self, found: Checkpoint[Entry], identity: Mapping[str, object]) -> None:
        """Refuse a checkpoint of another run than `identity`; what that does not name may differ."""
        known = {name: value for name, value in found.identity.items() if name in identity}
        other = differing(identity, known)
        if other:
            msg = (
                f"the checkpoint {str(self.path / CHECKPOINT)!r} is of a {self.what} that differs in "
                f"{' and '.join(other)}; use the same, or give another directory"
            )
            raise SearchError(msg)

    def _plot(self, done: Sequence[Entry]) -> bytes:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 4), layout="constrained")
        self.draw(figure, done)
        return as_png(figure)

    def _read(self, content: Any) -> Checkpoint[Entry]:
        if content["schema"] != SCHEMA:
            msg = f"it has schema {content['schema']}, expected {SCHEMA}"
            raise ValueError(msg)
        return Checkpoint(
            identity=json.loads(content["identity"]),
            states={name: content[name] for name in self.states},
            done=tuple(self.entry(*entry) for entry in content["done"]),
        )
