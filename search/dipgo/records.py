"""What a gradient search writes while it runs: log, plot, checkpoints."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from search.runs.checkpoints import CheckpointFolder

if TYPE_CHECKING:
    from collections.abc import Sequence

PLOT = "run.png"


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


class RunFolder(CheckpointFolder[Progress]):
    """The directory of one search."""

    what = "search"
    entry = Progress
    states = ("pruner", "optimizer")
    picture = PLOT

    def plot(self, done: Sequence[Progress]) -> bytes:
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
