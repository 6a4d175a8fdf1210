"""What a distillation writes while it runs: log, plot, checkpoint, encoded pictures."""

from __future__ import annotations

import dataclasses
import io
import json
import pickle
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from search.errors import SearchError
from search.files import write_atomically

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

LOG = "log.jsonl"
PLOT = "losses.png"
CHECKPOINT = "checkpoint.pt"
LATENTS = "latents.npy"
LATENTS_OF = "latents.json"
SCHEMA = 1
"""Of checkpoints."""
SMOOTHED = 20
"""Iterations that the plot averages over."""
_UNREADABLE = (
    OSError,
    RuntimeError,
    EOFError,
    AttributeError,
    KeyError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True)
class Progress:
    """One iteration.

    Attributes:
        iteration: its number, from 0.
        task: loss against the true noise.
        output: loss against the teacher's prediction.
        feature: loss against the teacher's features; 0 where there is none.
        learning_rate: of this iteration.
        seconds: it took.
    """

    iteration: int
    task: float
    output: float
    feature: float
    learning_rate: float
    seconds: float


@dataclass(frozen=True)
class Checkpoint:
    """All that is needed to go on.

    Attributes:
        identity: what the run is of, as JSON values; with another it is refused.
        iterations: how many there will be.
        states: of student, averaged weights, optimiser and gradient scaler, by name.
        done: the iterations so far.
    """

    identity: Mapping[str, object]
    iterations: int
    states: dict[str, Any]
    done: tuple[Progress, ...]


@dataclass(frozen=True)
class RunFolder:
    """The directory of one distillation."""

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
            "iterations": checkpoint.iterations,
            "states": checkpoint.states,
            "done": [dataclasses.astuple(entry) for entry in checkpoint.done],
        }
        torch.save(content, buffer)
        write_atomically(self.path / CHECKPOINT, buffer.getvalue())
        write_atomically(self.path / PLOT, plot(checkpoint.done))

    def load(self, identity: Mapping[str, object]) -> Checkpoint | None:
        """The last checkpoint, None if there is none.

        Raises:
            SearchError: it is damaged, or of another distillation than `identity`.
        """
        path = self.path / CHECKPOINT
        if not path.exists():
            return None
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            _require_schema(content.get("schema"))
            theirs = json.loads(content["identity"])
            done = tuple(Progress(*entry) for entry in content["done"])
            found = Checkpoint(theirs, int(content["iterations"]), content["states"], done)
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
                f"the checkpoint {str(path)!r} is of a distillation with another {' and '.join(keys)}; "
                "use the same, or start again without --resume"
            )
            raise SearchError(msg)
        return found

    def latents(
        self,
        shape: tuple[int, ...],
        identity: Mapping[str, object],
        fill: Callable[[NDArray[np.float32]], None],
    ) -> NDArray[np.float32]:
        """Encoded pictures of `shape`, kept in a file; `fill` makes them where there are none yet."""
        file, of = self.path / LATENTS, self.path / LATENTS_OF
        text = _text({"schema": 1, "kind": "stepcarve-latents", **identity})
        if of.is_file() and file.is_file() and of.read_text(encoding="utf-8") == text:
            kept: NDArray[np.float32] = np.load(file, mmap_mode="r", allow_pickle=False)
            return kept
        self.path.mkdir(parents=True, exist_ok=True)
        of.unlink(missing_ok=True)
        made = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=shape)
        fill(made)
        made.flush()
        write_atomically(of, text)
        return made


def plot(done: Sequence[Progress]) -> bytes:
    """Every term against the iterations, averaged over some, as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="iteration", ylabel="loss", yscale="log")
    colours = {"task": "tab:red", "output": "tab:blue", "feature": "tab:green"}
    for name, colour in colours.items():
        values = np.array([getattr(entry, name) for entry in done])
        if not values.any():
            continue
        axes.plot(values, color=colour, alpha=0.2)
        if len(values) > SMOOTHED:
            even = np.convolve(values, np.full(SMOOTHED, 1 / SMOOTHED), "valid")
            axes.plot(np.arange(SMOOTHED - 1, len(values)), even, color=colour, label=name)
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside upper center", ncols=3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def _require_schema(found: object) -> None:
    if found != SCHEMA:
        msg = f"it has schema {found}, expected {SCHEMA}"
        raise ValueError(msg)


def _text(identity: Mapping[str, object]) -> str:
    return json.dumps(identity, sort_keys=True)
