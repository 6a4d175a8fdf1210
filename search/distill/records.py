"""What a distillation writes while it runs: log, plot, checkpoint, encoded pictures."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from search.core.files import write_atomically
from search.runs.checkpoints import CheckpointFolder

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from matplotlib.figure import Figure
    from numpy.typing import NDArray

LATENTS = "latents.npy"
LATENTS_OF = "latents.json"
SMOOTHED = 20
"""Iterations that the plot averages over."""


@dataclass(frozen=True)
class DistillProgress:
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


class DistillRun(CheckpointFolder[DistillProgress]):
    """The directory of one distillation."""

    what = "distillation"
    entry = DistillProgress
    states = ("iterations", "states")
    picture = "losses.png"

    def latents(
        self,
        shape: tuple[int, ...],
        identity: Mapping[str, object],
        encode: Callable[[NDArray[np.float32]], None],
    ) -> NDArray[np.float32]:
        """Encoded pictures of `shape`, kept in a file; `encode` writes them where there are none yet."""
        file, of = self.path / LATENTS, self.path / LATENTS_OF
        text = json.dumps({"schema": 1, "kind": "stepcarve-latents", **identity}, sort_keys=True)
        if of.is_file() and file.is_file() and of.read_text(encoding="utf-8") == text:
            kept: NDArray[np.float32] = np.load(file, mmap_mode="r", allow_pickle=False)
            return kept
        self.path.mkdir(parents=True, exist_ok=True)
        of.unlink(missing_ok=True)
        made = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=shape)
        encode(made)
        made.flush()
        write_atomically(of, text)
        return made

    def draw(self, figure: Figure, done: Sequence[DistillProgress]) -> None:
        """Plot every term, averaged over some iterations."""
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
