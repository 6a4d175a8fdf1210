"""All coefficients and timesteps of placed calls, refined for the final latents alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from search.fitting.jacobian import normal_equations
from search.fitting.moves import Moves
from search.fitting.placed import best_of, evaluate
from search.fitting.rows import Calls

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from search.fitting.placed import Placed
    from search.fitting.trajectories import Trajectories

DAMPING, EASIER, HARDER = 1e-2, 0.1, 6.0
"""Of the first step, and its factors after a step that helped and after one that did not."""
TRIES = 6
"""Steps that are tried per iteration, each with more damping."""
ENOUGH = 2e-3
"""The least gain of an iteration, relative to the error, that is worth its time."""
IDLE = 2
"""Iterations in a row without such a gain, after which the refinement ends."""
SMALL = 0.01
"""The change that differences are taken over, relative to the latents: at most this, unless rounding asks for more."""
EXACT = 1e-6
"""Errors below this are rounding."""
SOFT = 1e-3
"""Added to errors of pictures, so that none is weighed without limit."""


@dataclass(frozen=True)
class Schedule:
    """How long to refine.

    Attributes:
        iterations: at most.
        batch: pictures that differences are taken on, other ones in each iteration.
        seed: of their order.
    """

    iterations: int
    batch: int
    seed: int = 0


def refine(
    fitted_on: Trajectories,
    held_out: Trajectories,
    start: Placed,
    schedule: Schedule,
    *,
    progress: Callable[[int, float], None] = lambda _iteration, _error: None,
) -> Placed:
    """Lower the `overall` error of the final latents; the rows may leave the full sampler in between.

    Least squares row by row ignores that the errors of several rows interact, and that a row may do better if
    the denoiser is given another timestep. This is the method of Levenberg and Marquardt, each picture
    weighed so that the sum of squares falls where `overall` falls. Differences are taken on some pictures,
    a step is accepted on all, and the best result on the held-out pictures is returned.

    Args:
        fitted_on: runs to fit to.
        held_out: other runs, to choose by.
        start: fitted calls.
        schedule: how long.
        progress: called with the number of the iteration and the error of the pictures that are fitted to.
    """
    best, present, error, damping = start, start, _evaluated(fitted_on, start).error, DAMPING
    batches, idle = fitted_on.batches(schedule.batch, schedule.seed), 0
    for iteration in range(1, schedule.iterations + 1):
        if not EXACT < error < math.inf:
            break
        batch, before = next(batches), error
        moves = Moves.of(present, batch)
        small = max(min(error, SMALL), fitted_on.rounding**0.5)
        normal = normal_equations(batch, moves, _weights, small)
        if not normal.is_finite:
            break
        for _ in range(TRIES):
            tried = _evaluated(fitted_on, moves.after(normal.step(damping)))
            if tried.error < error:
                present, error, damping = tried, tried.error, damping * EASIER
                break
            damping *= HARDER
        progress(iteration, error)
        if error < before:
            best = best_of(best, _evaluated(held_out, present))
        idle = idle + 1 if before - error < ENOUGH * before else 0
        if idle == IDLE:
            break
        damping = DAMPING if idle else damping
    return best


def _evaluated(runs: Trajectories, placed: Placed) -> Placed:
    return evaluate(runs, Calls.at_numbers(placed.positions, runs), placed.rows)


def _weights(errors: Tensor) -> Tensor:
    """Weights of the squared errors: `overall` is made of their fourth roots, and this is the derivative, up to a factor."""
    return (SOFT + errors) ** -1.5
