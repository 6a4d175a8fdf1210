"""Files that say when the whole denoiser is called and what stands for it otherwise, as SubNets."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from search.core.errors import SearchError
from search.core.sampler import FittedSampler
from search.core.timestep_grid import TimestepGrid
from search.foreign.forecasts import mean_velocity, taylor, with_forecasts
from search.methods.whole import full

if TYPE_CHECKING:
    from collections.abc import Sequence

    from search.core.sampler import SamplerTable
    from search.core.subnet import SubNet
    from search.foreign.forecasts import Forecast
    from search.foreign.step_file import MeanVelocity
    from search.foreign.taylorseer_file import TaylorSeer
    from search.methods.options import Options
    from search.model.pipeline import Pipeline


def subnet_from_timesteps(
    pipeline: Pipeline, timesteps: tuple[float, ...], options: Options
) -> SubNet:
    """The pipeline's scheduler on these timesteps.

    Raises:
        SearchError: the pipeline or its scheduler takes no custom timesteps.
    """
    return _on_grid(pipeline, dataclasses.replace(options, timesteps=timesteps), "timesteps")


def subnet_from_sigmas(pipeline: Pipeline, sigmas: tuple[float, ...], options: Options) -> SubNet:
    """The pipeline's scheduler at these noise levels; the last of them is the end, and taken as 0.

    Raises:
        SearchError: the pipeline or its scheduler takes no custom sigmas.
    """
    from search.model.noise_levels import asked_sigmas, noise_levels

    scheduler, levels = pipeline.pipe.scheduler, sigmas[:-1]
    plain = pipeline.grid_settings(TimestepGrid(len(levels)), options.size)
    asked = asked_sigmas(scheduler, levels, plain.mu)
    found = _on_grid(pipeline, dataclasses.replace(options, sigmas=asked), "sigmas")
    made = noise_levels(scheduler, found.timesteps)
    if len(made) != len(levels) or not np.allclose(made, levels, rtol=1e-3):
        first = f"{made[0]:g} with {len(made)} calls"
        msg = (
            f"{type(scheduler).__name__} starts at the sigma {first} here, but the list at {levels[0]:g} "
            f"with {len(levels)}; give a list for this kind of model, or another --scheduler"
        )
        raise SearchError(msg)
    return found


def _on_grid(pipeline: Pipeline, options: Options, what: str) -> SubNet:
    """The full sampler on a custom grid, in the place of the one with the steps of `options`."""
    whole = full(pipeline, options)
    steps = options.steps or pipeline.default_steps
    replaces = len(pipeline.timesteps(TimestepGrid(steps), options.size))
    return dataclasses.replace(
        whole, full_calls=replaces, method=f"{whole.steps} calls at imported {what}"
    )


def subnet_from_lite(pipeline: Pipeline, settings: TaylorSeer, options: Options) -> SubNet:
    """The rows that forecast the whole prediction, as TaylorSeer Lite does."""
    whole = full(pipeline, options)
    computes = settings.computes(whole.steps)
    return forecasting(
        whole,
        pipeline.sampler_of(whole),
        computes,
        taylor(computes),
        f"taylorseer lite interval {settings.interval}",
    )


def subnet_from_meancache(pipeline: Pipeline, mean: MeanVelocity, options: Options) -> SubNet:
    """The rows that hold or extrapolate the velocity as MeanCache does.

    Raises:
        SearchError: the pipeline's scheduler is not flow-match Euler, or the list is for another one.
    """
    from search.model.noise_levels import noise_levels

    scheduler = pipeline.pipe.scheduler
    if type(scheduler).__name__ != "FlowMatchEulerDiscreteScheduler":
        msg = (
            f"MeanCache's lists are for FlowMatchEulerDiscreteScheduler, not for {type(scheduler).__name__}; "
            "give a flow pipeline with that scheduler"
        )
        raise SearchError(msg)
    whole = full(pipeline, options)
    computes = mean.steps.computes(whole.steps)
    edges = [
        sum(number <= step for number in mean.steps.numbers) - 1 for step in range(whole.steps)
    ]
    orders = [mean.orders[edge] if edge < len(mean.orders) else 0 for edge in edges]
    broken = [s for s, computed in enumerate(computes) if not computed and not orders[s]]
    if broken:
        msg = (
            f"the steps {broken} are reused by no rule ('chain' joins neighbours, and after the last computed "
            "step there is none); give a list that ends with the sampler's last step, and other rules"
        )
        raise SearchError(msg)
    sigmas = (*noise_levels(scheduler, whole.timesteps), 0.0)
    return forecasting(
        whole,
        pipeline.sampler_of(whole),
        computes,
        mean_velocity(sigmas, orders),
        f"meancache {sum(computes)} calls",
    )


def forecasting(
    whole: SubNet, table: SamplerTable, computes: Sequence[bool], forecast: Forecast, method: str
) -> SubNet:
    """The computed steps of `whole` with rows in which the other predictions are forecast.

    Args:
        whole: runs everything.
        table: of its sampler.
        computes: per step.
        forecast: what stands for the others.
        method: for people.
    """
    table.require_fixed()
    calls = [step for step, computed in enumerate(computes) if computed]
    rows = with_forecasts(table, computes, forecast)
    return dataclasses.replace(
        whole,
        actions=tuple(whole.actions[step] for step in calls),
        fitted=FittedSampler(tuple(whole.timesteps[step] for step in calls), rows),
        method=method,
    )
