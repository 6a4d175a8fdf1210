"""What a gradient search writes while it runs: log, plot, checkpoints."""

from __future__ import annotations

import dataclasses
import io
import json
import pickle
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from search.errors import SearchError
from search.files import write_atomically

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

LOG = "log.jsonl"
PLOT = "run.png"
CHECKPOINT = "checkpoint.pt"
SCHEMA = 1
_UNREADABLE = (OSError, RuntimeError, EOFError, KeyError, TypeError, ValueError)


@dataclass(frozen=True)
class Progress:
    """One iteration.

    Attributes:
        iteration: its number, from 0.
        consistency: the loss between the gated run and the full one.
        sparsity: the loss of what still runs; 1 where everything does.
        keep: fraction of the cost that the best choices leave.
        learning_rate: of this iteration.
        seconds: it took.
    """

    iteration: int
    consistency: float
    sparsity: float
    keep: float
    learning_rate: float
    seconds: float


@dataclass(frozen=True)
class Checkpoint:
    """All that is needed to go on.

    Attributes:
        identity: what the run is of, as JSON values; with another it is refused.
        pruner: its state.
        optimizer: its state.
        done: the iterations so far.
    """

    identity: Mapping[str, object]
    pruner: dict[str, Any]
    optimizer: dict[str, Any]
    done: tuple[Progress, ...]


@dataclass(frozen=True)
class RunFolder:
    """The directory of one search: a line of JSON per iteration, a plot, the last checkpoint."""

    path: Path

    def start(self, done: Sequence[Progress]) -> None:
        """Begin the log with the iterations that are `done`."""
        lines = [json.dumps(vars(entry)) + "\n" for entry in done]
        write_atomically(self.path / LOG, "".join(lines))

    def log(self, entry: Progress) -> None:
        """Add one iteration."""
        with (self.path / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(vars(entry)) + "\n")

    def save(self, checkpoint: Checkpoint) -> None:
        """Write the checkpoint and the plot, each whole or not at all."""
        buffer = io.BytesIO()
        content = {
            "schema": SCHEMA,
            "identity": _text(checkpoint.identity),
            "pruner": checkpoint.pruner,
            "optimizer": checkpoint.optimizer,
            "done": [dataclasses.astuple(entry) for entry in checkpoint.done],
        }
        torch.save(content, buffer)
        write_atomically(self.path / CHECKPOINT, buffer.getvalue())
        write_atomically(self.path / PLOT, plot(checkpoint.done))

    def load(self, identity: Mapping[str, object], device: torch.device) -> Checkpoint | None:
        """The last checkpoint, None if there is none.

        Raises:
            SearchError: it is damaged, or of another search than `identity`.
        """
        path = self.path / CHECKPOINT
        if not path.exists():
            return None
        try:
            content = torch.load(path, map_location=device, weights_only=True)
            theirs = json.loads(content["identity"])
            done = tuple(Progress(*entry) for entry in content["done"])
            checkpoint = Checkpoint(theirs, content["pruner"], content["optimizer"], done)
        except (*_UNREADABLE, pickle.UnpicklingError) as error:
            reason = " ".join(str(error).split())[:200]
            msg = (
                f"cannot read the checkpoint {str(path)!r} ({reason}); start again without --resume"
            )
            raise SearchError(msg) from error
        mine = json.loads(_text(identity))
        if mine != theirs:
            keys = sorted(k for k in mine.keys() | theirs.keys() if mine.get(k) != theirs.get(k))
            msg = (
                f"the checkpoint {str(path)!r} is of a search with another {' and '.join(keys)}; "
                "use the same, or start again without --resume"
            )
            raise SearchError(msg)
        return checkpoint


def plot(done: Sequence[Progress]) -> bytes:
    """Both losses and the kept fraction against the iterations, as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="iteration", ylabel="consistency")
    at = [entry.iteration for entry in done]
    axes.plot(at, [entry.consistency for entry in done], color="tab:red", label="consistency")
    axes.set_ylim(bottom=0)
    other = axes.twinx()
    other.plot(at, [entry.sparsity for entry in done], color="tab:blue", label="sparsity")
    other.plot(at, [entry.keep for entry in done], color="tab:green", label="keep")
    other.set(ylabel="sparsity, keep", ylim=(0, 1.05))
    figure.legend(loc="outside upper center", ncols=3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def _text(identity: Mapping[str, object]) -> str:
    return json.dumps(identity, sort_keys=True)
