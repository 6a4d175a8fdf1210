"""Gradient search of the call times, through the fitted rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from search.fitting.descent import descend
from search.fitting.placed import evaluate, robust_weights
from search.fitting.rows import Calls, fit_chain

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from search.fitting.descent import Schedule
    from search.fitting.placed import Placed
    from search.fitting.trajectories import Trajectories

RATE = 0.05
"""Of Adam, on the logarithms of the gaps between calls."""


def assess(fitted_on: Trajectories, held_out: Trajectories, positions: Sequence[float]) -> Placed:
    """Fit rows at `positions` on some runs, twice for robust weights, and evaluate them on others."""
    calls = Calls.at_numbers(positions, fitted_on)
    with torch.no_grad():
        first = fit_chain(fitted_on, calls)
        weights = robust_weights(fitted_on.error(first.final))
        chain = fit_chain(fitted_on, calls, weights=weights)
    return evaluate(held_out, calls, chain.rows)


def refine_positions(
    fitted_on: Trajectories,
    held_out: Trajectories,
    start: Placed,
    schedule: Schedule,
    *,
    progress: Callable[[int, float], None] = lambda _iteration, _error: None,
) -> Placed:
    """Move the calls so that the final latents come closer to the full sampler's.

    Every row is a closed-form function of the positions, so gradients flow through the fit, the latents
    and the timesteps.

    Args:
        fitted_on: runs to fit and to take gradients on.
        held_out: other runs, to choose by.
        start: where to begin.
        schedule: how long.
        progress: called with the number of the iteration and the error.
    """
    if len(start.positions) < 2:
        return start
    gaps = torch.tensor(start.positions).diff(append=torch.tensor([float(fitted_on.last)]))
    # The last gap is from the last call to the last position, and may be 0.
    logits = gaps.clamp_min(0.05).log().to(fitted_on.noise.device).requires_grad_()

    def current() -> Placed:
        moved = positions_of(logits.detach(), fitted_on.last)
        return assess(fitted_on, held_out, [float(position) for position in moved])

    return descend(
        {logits: RATE},
        lambda runs: fit_chain(runs, Calls.at(positions_of(logits, fitted_on.last))).final,
        current,
        fitted_on,
        start,
        schedule,
        progress,
    )


def positions_of(logits: Tensor, last: int) -> list[Tensor]:
    """Increasing positions from 0 on, one per gap; all gaps together reach to `last`."""
    gaps = torch.softmax(logits, dim=0) * last
    return list(torch.cat([torch.zeros_like(gaps[:1]), gaps[:-1].cumsum(0)]))
