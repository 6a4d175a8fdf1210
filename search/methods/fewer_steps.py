"""The same sampler with fewer steps."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from search.core.errors import SearchError
from search.core.timestep_grid import TimestepGrid
from search.methods.method import Method

if TYPE_CHECKING:
    from search.core.subnet import SubNet
    from search.methods.method import Task
    from search.model.pipeline import Pipeline


def fewer_steps(pipeline: Pipeline, whole: SubNet, keep: float) -> SubNet:
    """The pipeline's present sampler with the fraction `keep` of the full calls of `whole`."""
    from search.core.table import whole_count

    grid = whole.binding.grid
    if not grid.is_plain:
        msg = (
            "fewer-steps chooses its own timestep grids, from noise to the end; leave the custom grid or "
            "the part of one out, or choose another method"
        )
        raise SearchError(msg)
    budget = whole_count(keep, whole.full_calls)
    for steps in range(grid.inference_steps, 0, -1):
        binding = pipeline.binding(
            grid=TimestepGrid(steps),
            guided=whole.binding.guided,
            latent_shape=whole.binding.latent_shape,
            noise_shape=whole.binding.noise_shape,
        )
        if len(binding.timesteps) <= budget:
            return replace(
                whole,
                binding=binding,
                actions=whole.actions[:1] * len(binding.timesteps),
                method=f"fewer-steps keep {keep}",
            )
    msg = f"--keep {keep} of {whole.full_calls} calls is less than one call; raise --keep"
    raise SearchError(msg)


def _make(task: Task) -> list[SubNet]:
    return task.each(lambda keep: fewer_steps(task.pipeline, task.whole, keep))


METHOD = Method(
    "fewer-steps",
    "take fewer steps of the same sampler",
    _make,
    options=("keep",),
    calls=lambda *_: 0,
)
