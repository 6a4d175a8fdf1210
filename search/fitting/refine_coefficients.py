"""Gradient search of all coefficients and timesteps, for the final latents alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from search.fitting.descent import descend
from search.fitting.moves import Moves
from search.fitting.placed import evaluate
from search.fitting.rows import run_chain

if TYPE_CHECKING:
    from collections.abc import Callable

    from search.fitting.descent import Schedule
    from search.fitting.placed import Placed
    from search.fitting.trajectories import Trajectories

RATE = 0.5
"""Of Adam, for all coefficients together. It is relative to the present error, since that bounds what they
can correct, and divided among them, so that the first steps cannot undo the fit."""
TIMESTEP_RATE = 0.005
"""The same for timesteps, in gaps to the nearer neighbour."""


def refine_coefficients(
    fitted_on: Trajectories,
    held_out: Trajectories,
    start: Placed,
    schedule: Schedule,
    *,
    progress: Callable[[int, float], None] = lambda _iteration, _error: None,
) -> Placed:
    """Lower the error of the final latents alone; the rows may leave the full sampler in between.

    Least squares ignores that the errors of several rows interact, and that a row may do better if the
    denoiser is given a slightly different timestep.

    Args:
        fitted_on: runs to take gradients on.
        held_out: other runs, to choose by.
        start: fitted calls.
        schedule: how long.
        progress: called with the number of the iteration and the error.
    """
    moves = Moves.of(start, next(fitted_on.batches(schedule.batch, schedule.seed)))
    rate = RATE * start.error / math.sqrt(sum(map(len, start.rows)) / fitted_on.scale_count)
    return descend(
        {**dict.fromkeys(moves.rows, rate), moves.shifts: TIMESTEP_RATE},
        lambda runs: run_chain(runs, moves.calls(), moves.moved()),
        lambda: evaluate(held_out, moves.calls(), tuple(row.detach() for row in moves.moved())),
        fitted_on,
        start,
        schedule,
        progress,
    )
