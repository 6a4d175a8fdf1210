"""The scheduler's own steps, one per call, as a start for the refinement."""

from __future__ import annotations

import math
from inspect import signature
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from search.core.errors import SearchError
from search.core.timestep_grid import TimestepGrid
from search.fitting.placed import evaluate
from search.fitting.rows import Calls
from search.fitting.scaled import rows_for

if TYPE_CHECKING:
    from search.core.sampler import SamplerTable
    from search.core.subnet import SubNet
    from search.fitting.placed import Placed
    from search.fitting.trajectories import Trajectories
    from search.model.pipeline import Pipeline


KARRAS, SOLVER = "use_karras_sigmas", "DPMSolverMultistepScheduler"
CLOSEST = 0.05
"""Least distance of two calls, in positions."""
ALIKE = 1e-3
"""How much the scale of the first input may differ, which our calls share with the full sampler."""


def scheduled(
    pipeline: Pipeline,
    full: SubNet,
    *,
    held_out: Trajectories,
    count: int,
) -> Placed | None:
    """The rows of the scheduler of `full` with `count` steps; None where it makes another number of calls.

    Where calls are few, least squares row by row is far from what their rows do together, and a solver
    of higher order, whose rows read all predictions, is the better beginning.

    Args:
        pipeline: with that scheduler.
        full: the sampler that is to be reached.
        held_out: some of its runs, which say how good it is.
        count: calls.
    """
    own = _own_steps(pipeline, full, held_out, count)
    if own is None:
        return None
    table, positions = own
    calls = Calls.at_numbers(positions, held_out)
    return evaluate(held_out, calls, rows_for(held_out, lambda _: table))


def scheduled_positions(
    pipeline: Pipeline, full: SubNet, runs: Trajectories, count: int
) -> list[float] | None:
    """The positions of the calls that `scheduled` makes."""
    own = _own_steps(pipeline, full, runs, count)
    return None if own is None else own[1]


def karras_positions(
    pipeline: Pipeline, full: SubNet, runs: Trajectories, count: int
) -> list[float] | None:
    """Where so many calls have Karras' noise levels (arXiv 2206.00364, equation 5); None if it is not known.

    They are many at both ends of the sampler.

    Args:
        pipeline: its scheduler, or DPM-Solver++ in its place, knows the noise levels.
        full: the sampler that is to be reached.
        runs: of it.
        count: calls.
    """
    own: Any = pipeline.pipe.scheduler
    able = [
        cls
        for cls in (type(own), *getattr(own, "compatibles", ()))
        if KARRAS in signature(cls).parameters
    ]
    if not able or not full.binding.grid.is_plain:
        return None
    cls = next((each for each in able if each.__name__ == SOLVER), able[0])
    try:
        scheduler = cls.from_config(own.config, **{KARRAS: True})
        settings = pipeline.grid_settings(
            TimestepGrid(count), pipeline.size(full.binding.noise_shape)
        )
        settings.apply(scheduler)
    except (SearchError, TypeError, ValueError, AssertionError):
        return None  # of this scheduler's grid there is no such variant
    found = [runs.position_of(float(time)) for time in settings.part(scheduler)]
    if len(found) != count:
        return None
    found[0] = 0.0
    for call in reversed(range(1, count - 1)):
        found[call] = min(found[call], found[call + 1] - CLOSEST)
    return found if all(a < b for a, b in pairwise(found)) else None


def _own_steps(
    pipeline: Pipeline, full: SubNet, runs: Trajectories, count: int
) -> tuple[SamplerTable, list[float]] | None:
    """The table of the scheduler's own steps and their positions."""
    if not full.binding.grid.is_plain:
        return None
    grid, size = TimestepGrid(count), pipeline.size(full.binding.noise_shape)
    try:
        table, timesteps = pipeline.sampler(grid, size), pipeline.timesteps(grid, size)
    except SearchError:
        return None
    positions = [runs.position_of(each) for each in timesteps]
    begins_alike = math.isclose(table.inputs[0, 0], runs.first, rel_tol=ALIKE)
    if len(timesteps) != count or len(set(positions)) < count or not begins_alike:
        return None
    return table, positions
