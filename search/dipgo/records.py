"""What a gradient search writes while it runs: log, plot, checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from search.runs.checkpoints import CheckpointFolder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure


@dataclass(frozen=True)
class DipGoProgress:
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


class DipGoRun(CheckpointFolder[DipGoProgress]):
    """The directory of one search."""

    what = "search"
    entry = DipGoProgress
    states = ("pruner", "optimizer")
    picture = "run.png"

    def draw(self, figure: Figure, done: Sequence[DipGoProgress]) -> None:
        """Plot both losses and the kept fraction."""
        axes = figure.add_subplot(xlabel="iteration", ylabel="consistency")
        at = [entry.iteration for entry in done]
        axes.plot(at, [entry.consistency for entry in done], color="tab:red", label="consistency")
        axes.set_ylim(bottom=0)
        other = axes.twinx()
        other.plot(at, [entry.sparsity for entry in done], color="tab:blue", label="sparsity")
        other.plot(at, [entry.keep for entry in done], color="tab:green", label="keep")
        other.set(ylabel="sparsity, keep", ylim=(0, 1.05))
        figure.legend(loc="outside upper center", ncols=3)
