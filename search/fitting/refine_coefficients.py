"""Gradient search of all coefficients and of the timesteps that the denoiser is told, for given calls."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from search.fitting.descent import descend
from search.fitting.placed import judge
from search.fitting.rows import Calls, Chain, run_chain, walk

if TYPE_CHECKING:
    from collections.abc import Callable

    from search.fitting.descent import Schedule
    from search.fitting.placed import Placed
    from search.fitting.trajectories import Trajectories

RATE = 0.5
"""Of Adam, for all coefficients together: relative to the error there is, since that is what they can mend, and
shared by so many of them that a first step cannot undo the fit."""
TOLD_RATE = 0.005
"""The same for timesteps, in gaps to the nearer of its neighbours."""
DAMPING = 1e-6
"""Of directions in which features hardly differ, relative to each feature's own square sum."""


def polish(
    fitted_on: Trajectories,
    held_out: Trajectories,
    start: Placed,
    schedule: Schedule,
    *,
    progress: Callable[[int, float], None] = lambda _iteration, _error: None,
) -> Placed:
    """Give up that each row aims at the full sampler's latents: only the final ones count.

    What least squares cannot see is how errors of several rows play together, and that a denoiser told a
    somewhat other timestep may serve the row better. Each row is moved along directions in which its
    features are orthonormal: as they are, predictions of neighbouring calls are nearly parallel.

    Args:
        fitted_on: runs to take gradients on.
        held_out: other runs; the best on all pictures is returned.
        start: fitted calls.
        schedule: how long.
        progress: told the number of the iteration and the error.
    """
    places = torch.tensor(start.positions, device=fitted_on.noise.device)
    gaps = places.diff(append=places.new_tensor([float(fitted_on.last)])).clamp_min(0.05)
    room = torch.minimum(gaps, gaps.roll(1))
    room[0] = 0  # To tell the first call something else gained nothing; see docs/recipe.md.
    rows = start.chain.rows
    bases = _directions(next(fitted_on.batches(schedule.batch, schedule.seed)), start)
    moves = [torch.zeros_like(row, requires_grad=True) for row in rows]
    told = torch.zeros_like(places, requires_grad=True)

    def calls() -> Calls:
        return Calls.at(list((places + room * told).clamp(0, fitted_on.last)))

    def moved() -> list[Tensor]:
        return [row + base @ move for row, base, move in zip(rows, bases, moves, strict=True)]

    def judged() -> Placed:
        with torch.no_grad():
            now, found = calls(), tuple(moved())
            chain = Chain(run_chain(fitted_on, now, found), found)
            return judge(fitted_on, held_out, now, chain)

    rate = RATE * start.error / math.sqrt(sum(len(row) for row in rows))
    return descend(
        {**dict.fromkeys(moves, rate), told: TOLD_RATE},
        lambda runs: run_chain(runs, calls(), moved()),
        judged,
        fitted_on,
        start,
        schedule,
        progress,
    )


def _directions(runs: Trajectories, start: Placed) -> list[Tensor]:
    """Per row, a matrix whose columns combine its features to orthogonal ones of the latents' own size."""
    found: list[Tensor] = []

    def row_of(number: int, features: list[Tensor]) -> Tensor:
        row = start.chain.rows[number]
        matrix = torch.stack([f.flatten() for f in features], dim=-1).double()[:, : len(row)]
        gram = matrix.T @ matrix / matrix[:, 0].square().sum()
        gram = gram + DAMPING * torch.diag(torch.diag(gram).clamp_min(DAMPING))
        found.append(torch.linalg.inv(torch.linalg.cholesky(gram)).T.to(row.dtype))
        return row

    with torch.no_grad():
        walk(runs, Calls.at_numbers(start.positions, runs), row_of)
    return found
