"""The full sampler of a pipeline as a SubNet, and a SubNet at another picture size."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from search.core.actions import Action
from search.core.errors import SearchError
from search.core.subnet import SubNet
from search.core.table import skipping, whole_table
from search.core.timestep_grid import TimestepGrid
from search.model import trace as tracing
from search.model.family import Request
from search.model.steps import groups_of_steps

if TYPE_CHECKING:
    from search.core.granularity import Granularity
    from search.model.pipeline import Pipeline


def whole_subnet(
    pipeline: Pipeline,
    *,
    grid: TimestepGrid,
    granularity: Granularity,
    guidance: float,
    size: tuple[int, ...] | None = None,
) -> SubNet:
    """Every block at every step.

    Args:
        pipeline: with its present scheduler; it needs no weights.
        grid: timesteps or their number, as given to that scheduler.
        granularity: which submodules are blocks.
        guidance: classifier-free guidance scale; 1 or less is no guidance.
        size: height and width of the pictures; None is the pipeline's own.

    Raises:
        SearchError: the pipeline cannot sample so.
    """
    traced = whole_trace(pipeline, grid=grid, granularity=granularity, guidance=guidance, size=size)
    binding = pipeline.binding(
        grid=grid,
        guided=any(body.guided for body in traced.bodies),
        latent_shape=traced.latent_shape,
        noise_shape=traced.noise_shape,
    )
    row = (Action.RUN,) * len(traced.topology.blocks)
    whole = SubNet(
        binding=binding,
        granularity=granularity,
        topology=traced.topology,
        actions=(row,) * len(binding.timesteps),
        guidance=guidance,
        full_calls=len(binding.timesteps),
        method="full",
    )
    return skipping(whole, pipeline.removed)


def whole_trace(
    pipeline: Pipeline,
    *,
    grid: TimestepGrid,
    granularity: Granularity,
    guidance: float,
    size: tuple[int, ...] | None = None,
) -> tracing.Trace:
    """The trace that the full sampler is made of; see `whole_subnet`."""
    pipeline.sampler(grid, size)  # refuses what could never be exported
    request = Request(
        prompts=(pipeline.default_prompt,),
        steps=grid.inference_steps,
        guidance=guidance,
    ).sized(size)
    timesteps = pipeline.timesteps(grid, size)
    groups = groups_of_steps(pipeline, request, timesteps)
    traced = tracing.trace(pipeline, granularity, request, groups=groups, timesteps=timesteps)
    _require_size(pipeline, size, traced.noise_shape)
    return traced


def resized(pipeline: Pipeline, subnet: SubNet, size: tuple[int, ...]) -> SubNet:
    """The same table for pictures of another size (height, width).

    Costs and shapes are those at that size, and so are timesteps where they depend on it.

    Args:
        pipeline: with the scheduler that `subnet` is bound to.
        subnet: bound to that pipeline.
        size: wanted.

    Raises:
        SearchError: the pipeline cannot make pictures of that size, has other blocks then, or the
            sampler of `subnet` was fitted at its own size.
    """
    own = pipeline.size(subnet.binding.noise_shape)
    if size == own:
        return subnet
    if subnet.fitted is not None:
        msg = (
            f"the sampler of this SubNet was fitted for pictures of {own[0]} x {own[1]}, not of "
            f"{size[0]} x {size[1]}; leave that size out, or search again with it"
        )
        raise SearchError(msg)
    there = whole_subnet(
        pipeline,
        grid=subnet.binding.grid,
        granularity=subnet.granularity,
        guidance=subnet.guidance,
        size=size,
    )
    if not subnet.topology.has_blocks_of(there.topology):
        msg = (
            f"at {size[0]} x {size[1]} the denoiser has other blocks than the SubNet, which was made "
            f"at {own[0]} x {own[1]}; search again at that size"
        )
        raise SearchError(msg)
    return replace(subnet, binding=there.binding, topology=there.topology)


def _require_size(
    pipeline: Pipeline, size: tuple[int, ...] | None, noise_shape: tuple[int, ...]
) -> None:
    """Refuse a size (height, width, frames) that the pipeline has not taken."""
    made, multiple = pipeline.size(noise_shape), pipeline.multiple
    if size is None or size == made[: len(size)]:
        return
    if size[:2] == made[:2] and len(made) > 2:
        msg = (
            f"{pipeline.family.pipeline} makes videos of {made[2]} frames here, not of {size[2]}; "
            f"leave the frames out, or choose {made[2]}"
        )
    else:
        msg = (
            f"{pipeline.family.pipeline} makes pictures of {made[0]} x {made[1]} here, not of "
            f"{size[0]} x {size[1]}; leave the size out, or choose multiples of {multiple}"
        )
    raise SearchError(msg)


def full_of(pipeline: Pipeline, subnet: SubNet) -> SubNet:
    """Every block at every step of the sampler that `subnet` stands in for.

    Args:
        pipeline: with the scheduler that `subnet` is bound to; it needs no weights.
        subnet: bound to that pipeline, or to the same one with its calls split.

    Raises:
        SearchError: the SubNet is a sampler of fewer steps, and that scheduler makes no full one.
    """
    known = whole_table(subnet)
    if known is not None and subnet.binding.split_streams == pipeline.is_split:
        return known
    found = whole_subnet(
        pipeline,
        grid=TimestepGrid(subnet.full_calls) if known is None else subnet.binding.grid,
        granularity=subnet.granularity,
        guidance=subnet.guidance,
        size=pipeline.size(subnet.binding.noise_shape),
    )
    if found.full_calls != subnet.full_calls:
        msg = (
            f"the SubNet stands in for a sampler of {subnet.full_calls} calls, but "
            f"{subnet.binding.scheduler} with as many steps makes {found.full_calls}; search again with "
            "another number of steps"
        )
        raise SearchError(msg)
    return found
