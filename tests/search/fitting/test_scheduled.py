"""Beginning at the scheduler's own steps."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from inspect import signature
from pathlib import Path

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, HeunDiscreteScheduler, LCMScheduler

from search.core.subnet import SubNet
from search.core.timestep_grid import TimestepGrid
from search.fitting.placed import Placed
from search.fitting.rows import Calls, run_chain
from search.fitting.scheduled import karras_positions, scheduled
from search.fitting.trajectories import Trajectories, sample_trajectories
from search.methods.options import Options
from search.methods.whole import full
from search.model.opening import open_pipeline
from search.model.pipeline import Pipeline

PROMPTS = ("a red cross", "a blue circle")
EXACT = 1e-5


@pytest.fixture
def opened(pipelines: Callable[[str], Path]) -> Pipeline:
    found = open_pipeline(pipelines("three-levels"))
    pipe = found.pipe
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    return found


def runs_of(opened: Pipeline, whole: SubNet, steps: int) -> Trajectories:
    return sample_trajectories(
        opened,
        PROMPTS,
        grid=TimestepGrid(steps),
        guidance=whole.guidance,
        noise_shape=whole.binding.noise_shape,
        seed=0,
    )


def begun(opened: Pipeline, whole: SubNet, runs: Trajectories, count: int) -> Placed | None:
    return scheduled(opened, whole, held_out=runs, count=count)


@pytest.mark.parametrize("options", [{}, {"use_karras_sigmas": True}])
def test_it_is_what_the_scheduler_does_with_fewer_steps(
    opened: Pipeline, options: dict[str, bool]
) -> None:
    pipe = opened.pipe
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config, **options)
    whole = full(opened, Options(steps=8, guidance=4))
    runs, fewer = runs_of(opened, whole, 8), runs_of(opened, whole, 5)
    placed = begun(opened, whole, runs, 5)
    assert placed is not None
    with torch.no_grad():
        final = run_chain(runs, Calls.at_numbers(placed.positions, runs), placed.rows)
    assert replace(runs, final=fewer.final).error(final).max() < EXACT
    assert placed.error > 100 * EXACT
    found = [float(runs.timestep_at(p)) for p in map(runs.noise.new_tensor, placed.positions)]
    assert found == pytest.approx(fewer.timesteps.tolist(), abs=1e-2)


def test_a_grid_of_ones_own_has_no_fewer_steps(opened: Pipeline) -> None:
    whole = full(opened, Options(steps=4, guidance=4))
    runs = runs_of(opened, whole, 4)
    grid = replace(
        whole.binding, grid=TimestepGrid(4, custom_timesteps=(900.0, 600.0, 300.0, 100.0))
    )
    assert begun(opened, whole, runs, 3) is not None
    assert begun(opened, replace(whole, binding=grid), runs, 3) is None


def test_another_scale_of_the_first_input_is_none(opened: Pipeline) -> None:
    whole = full(opened, Options(steps=4, guidance=4))
    runs = runs_of(opened, whole, 4)
    assert begun(opened, whole, replace(runs, first=0.5), 3) is None


def test_calls_that_fall_together_are_none(opened: Pipeline) -> None:
    whole = full(opened, Options(steps=8, guidance=4))
    assert begun(opened, whole, runs_of(opened, whole, 2), 8) is None


def test_a_sampler_that_calls_twice_a_step_is_none(opened: Pipeline) -> None:
    whole = full(opened, Options(steps=4, guidance=4))
    runs = runs_of(opened, whole, 4)
    pipe = opened.pipe
    pipe.scheduler = HeunDiscreteScheduler.from_config(pipe.scheduler.config)
    assert begun(opened, whole, runs, 3) is None


def test_calls_at_karras_noise_levels_are_those_of_the_scheduler(opened: Pipeline) -> None:
    whole = full(opened, Options(steps=20, guidance=4))
    runs = runs_of(opened, whole, 20)
    found = karras_positions(opened, whole, runs, 6)
    assert found is not None
    config = opened.pipe.scheduler.config
    karras = DPMSolverMultistepScheduler.from_config(config, use_karras_sigmas=True)
    karras.set_timesteps(6)
    expected = [runs.position_of(float(time)) for time in karras.timesteps]
    assert found[1:] == pytest.approx(expected[1:], abs=0.2), "calls at one place are moved apart"
    assert found[0] == 0
    assert all(a < b for a, b in itertools.pairwise(found))


def test_a_scheduler_without_karras_noise_levels_has_none(opened: Pipeline) -> None:
    whole = full(opened, Options(steps=8, guidance=4))
    runs = runs_of(opened, whole, 8)
    opened.pipe.scheduler = LCMScheduler.from_config(opened.pipe.scheduler.config)
    assert "use_karras_sigmas" not in signature(LCMScheduler).parameters
    found = karras_positions(opened, whole, runs, 4)
    solvers = [each.__name__ for each in opened.pipe.scheduler.compatibles]
    assert (found is None) is ("DPMSolverMultistepScheduler" not in solvers)
