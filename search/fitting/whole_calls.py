"""A number of whole calls: their positions and their rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from search.fitting.effort import COMPARED, PROBED, REFINED
from search.fitting.placed import assess, best_of
from search.fitting.placement import (
    measure_local_errors,
    measure_propagation,
    place,
    propagation_candidates,
)
from search.fitting.refine import refine

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from search.fitting.effort import Effort
    from search.fitting.placed import Placed
    from search.fitting.trajectories import Trajectories

SPACINGS = (1.25, 1.0, 0.8)
"""Exponents of plain spacings to begin at: denser at the beginning, even, and denser at the end."""
PLAUSIBLE = 2.0
"""How much larger the error of a start may be than that of the best one, to be tried at all."""


def starts_of(
    fitted_on: Trajectories, counts: Sequence[int], report: Callable[..., None]
) -> dict[int, list[list[float]]]:
    """Starts per number of calls: the placements, and spacings that need no measurement."""
    report("propagation of errors")
    local = measure_local_errors(fitted_on)
    probed = fitted_on.of_each_scale()[0]
    measured = measure_propagation(probed.first_pictures(min(PROBED, len(probed.noise))), local)
    most = min(max(counts), len(local.positions))
    plans = [place(local, each, most) for each in propagation_candidates(measured)]
    return {
        count: [
            *([float(i) for i in plan[count - 1]] for plan in plans if count <= most),
            *(spaced(fitted_on.last, count, power) for power in SPACINGS),
        ]
        for count in counts
    }


def spaced(last: int, count: int, power: float) -> list[float]:
    """Positions spaced as schedulers do: the end, which has no call, is one after the last."""
    if count > last:
        positions: list[float] = (last * np.linspace(0, 1, count) ** power).tolist()
        return positions
    ahead = (last + 1) * np.linspace(0, 1, count, endpoint=False) ** power
    return [min(float(position), last) for position in ahead]


@dataclass
class Refinement:
    """The refinements of one number of calls, which share its iterations.

    Attributes:
        fitted_on: runs to fit to.
        held_out: other runs, to choose by.
        effort: how much work to do.
        iterations: all of them.
        seed: of the order of the pictures.
        tell: called with the number of the iteration and its error.
        done: iterations so far.
    """

    fitted_on: Trajectories
    held_out: Trajectories
    effort: Effort
    iterations: int
    seed: int
    tell: Callable[[int, float], None]
    done: int = 0

    def best(self, *starts: Placed) -> Placed:
        """The best result: starts within `PLAUSIBLE` of the best get a quarter of the iterations each, the best of these the rest."""
        likely = min(start.error for start in starts) * PLAUSIBLE
        tried = [start for start in starts if start.error <= likely]
        if len(tried) > 1:
            tried = [self._refined(start, self.iterations // 4) for start in tried]
        return self._refined(best_of(*tried), self.iterations - self.done)

    def _refined(self, start: Placed, iterations: int) -> Placed:
        if iterations == 0:
            return start
        before, self.done = self.done, self.done + iterations
        return refine(
            self.fitted_on,
            self.held_out,
            start,
            self.effort.schedule(len(start.positions), iterations, self.seed + before),
            progress=lambda iteration, error: self.tell(before + iteration, error),
        )


def search_calls(
    starts: Sequence[Sequence[float]], plain: Placed | None, refinement: Refinement
) -> Placed:
    """Evaluate the starts, and refine the best ones or the scheduler's own steps.

    Args:
        starts: positions of the calls.
        plain: the scheduler's own steps, if there are that many.
        refinement: how.
    """
    fitted_on, held_out = refinement.fitted_on, refinement.held_out
    few = fitted_on.some(COMPARED)
    compared = sorted(
        (assess(few, held_out, start) for start in dict.fromkeys(map(tuple, starts))),
        key=lambda placed: placed.error,
    )
    begin = [assess(fitted_on, held_out, each.positions) for each in compared[:REFINED]]
    return refinement.best(*begin, *(() if plain is None else (plain,)))
