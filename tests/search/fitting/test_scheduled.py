"""Beginning at the scheduler's own steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from diffusers import DPMSolverMultistepScheduler, HeunDiscreteScheduler

from search.course import Course
from search.fitting.scheduled import scheduled
from search.fitting.trajectories import Trajectories, sample_trajectories
from search.methods import full
from search.model.pipeline import Pipeline, open_pipeline
from search.options import Options
from search.subnet import SubNet

PROMPTS = ("a red cross", "a blue circle")


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
        course=Course(steps),
        guidance=whole.guidance,
        noise_shape=whole.binding.noise_shape,
        seed=0,
    )


def test_it_is_what_the_scheduler_does_with_fewer_steps(opened: Pipeline) -> None:
    whole = full(opened, Options(steps=8, guidance=4))
    runs, fewer = runs_of(opened, whole, 8), runs_of(opened, whole, 5)
    placed = scheduled(opened, whole, runs, runs, 5)
    assert placed is not None
    assert replace(runs, final=fewer.final).error(placed.chain.final).max() < 1e-5
    assert placed.error > 100 * 1e-5
    found = [float(runs.timestep_at(p)) for p in map(runs.noise.new_tensor, placed.positions)]
    assert found == pytest.approx(fewer.timesteps.tolist(), abs=1e-2)


def test_a_grid_of_ones_own_has_no_fewer_steps(opened: Pipeline) -> None:
    whole = full(opened, Options(steps=4, guidance=4))
    runs = runs_of(opened, whole, 4)
    grid = replace(whole.binding, course=Course(4, custom_timesteps=(900.0, 600.0, 300.0, 100.0)))
    assert scheduled(opened, whole, runs, runs, 3) is not None
    assert scheduled(opened, replace(whole, binding=grid), runs, runs, 3) is None


def test_a_sampler_that_calls_twice_a_step_is_none(opened: Pipeline) -> None:
    whole = full(opened, Options(steps=4, guidance=4))
    runs = runs_of(opened, whole, 4)
    pipe = opened.pipe
    pipe.scheduler = HeunDiscreteScheduler.from_config(pipe.scheduler.config)
    assert scheduled(opened, whole, runs, runs, 3) is None
