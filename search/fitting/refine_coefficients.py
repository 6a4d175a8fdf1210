"""Gradient search of all coefficients, and of the timesteps given to the denoiser, for given calls."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from search.fitting.descent import descend
from search.fitting.placed import evaluate
from search.fitting.rows import Calls, Chain, run_chain, walk

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
DAMPING = 1e-6
"""Of directions in which features hardly differ, relative to each feature's own square sum."""


def refine_coefficients(
    fitted_on: Trajectories,
    held_out: Trajectories,
    start: Placed,
    schedule: Schedule,
    *,
    progress: Callable[[int, float], None] = lambda _iteration, _error: None,
) -> Placed:
    """Lower the error of the final latents alone; rows need no longer meet the full sampler in between.

    Least squares ignores that the errors of several rows interact, and that a row may do better if the
    denoiser is given a slightly different timestep. Each row moves along directions in which its
    features are orthonormal, because predictions of neighbouring calls are nearly parallel.

    Args:
        fitted_on: runs to take gradients on.
        held_out: other runs; the best on all pictures is returned.
        start: fitted calls.
        schedule: how long.
        progress: called with the number of the iteration and the error.
    """
    places = torch.tensor(start.positions, device=fitted_on.noise.device)
    gaps = places.diff(append=places.new_tensor([float(fitted_on.last)])).clamp_min(0.05)
    room = torch.minimum(gaps, gaps.roll(1))
    room[0] = 0  # Another timestep for the first call gained nothing; see docs/recipe.md.
    rows = start.chain.rows
    bases = _directions(next(fitted_on.batches(schedule.batch, schedule.seed)), start)
    moves = [torch.zeros_like(row, requires_grad=True) for row in rows]
    shifts = torch.zeros_like(places, requires_grad=True)

    def calls() -> Calls:
        return Calls.at(list((places + room * shifts).clamp(0, fitted_on.last)))

    def moved() -> list[Tensor]:
        return [row + base @ move for row, base, move in zip(rows, bases, moves, strict=True)]

    def current() -> Placed:
        with torch.no_grad():
            now, found = calls(), tuple(moved())
            chain = Chain(run_chain(fitted_on, now, found), found)
            return evaluate(fitted_on, held_out, now, chain)

    rate = RATE * start.error / math.sqrt(sum(len(row) for row in rows))
    return descend(
        {**dict.fromkeys(moves, rate), shifts: TIMESTEP_RATE},
        lambda runs: run_chain(runs, calls(), moved()),
        current,
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
