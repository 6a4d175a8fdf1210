"""The scheduler's own steps, as many as there are calls, for the gradient search to begin at."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from search.core.errors import SearchError
from search.core.timestep_grid import TimestepGrid
from search.fitting.placed import evaluate
from search.fitting.rows import Calls, Chain, rows_of, run_chain

if TYPE_CHECKING:
    from search.core.subnet import SubNet
    from search.fitting.placed import Placed
    from search.fitting.trajectories import Trajectories
    from search.model.pipeline import Pipeline


ALIKE = 1e-3
"""How much the scale of the first input may differ, which our calls share with the full sampler."""


def scheduled(
    pipeline: Pipeline,
    full: SubNet,
    *,
    fitted_on: Trajectories,
    held_out: Trajectories,
    count: int,
) -> Placed | None:
    """What the scheduler of `full` makes of `count` steps; None where it makes no such calls.

    Where calls are few, least squares row by row is far from what their rows do together, and a solver
    of higher order, whose rows read all predictions, is the better beginning.

    Args:
        pipeline: with that scheduler.
        full: the sampler that is to be reached.
        fitted_on: its runs.
        held_out: others of its runs.
        count: calls.
    """
    if not full.binding.grid.is_plain:
        return None
    grid, size = TimestepGrid(count), pipeline.size(full.binding.noise_shape)
    try:
        table, timesteps = pipeline.sampler(grid, size), pipeline.timesteps(grid, size)
    except SearchError:
        return None
    positions = [fitted_on.position_of(each) for each in timesteps]
    begins_alike = math.isclose(table.inputs[0, 0], fitted_on.first, rel_tol=ALIKE)
    if len(timesteps) != count or len(set(positions)) < count or not begins_alike:
        return None
    calls = Calls.at_numbers(positions, fitted_on)
    rows = tuple(row.to(fitted_on.noise) for row in rows_of(table))
    with torch.no_grad():
        chain = Chain(run_chain(fitted_on, calls, rows), rows)
        return evaluate(fitted_on, held_out, calls, chain)
