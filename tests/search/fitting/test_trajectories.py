"""Runs of the full sampler against diffusers, and what lies between their steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from search.core.errors import SearchError
from search.core.timestep_grid import TimestepGrid
from search.fitting.trajectories import sample_trajectories
from search.model.family import Request
from search.model.opening import open_pipeline
from search.model.reference import sample
from tests.search.fitting.toy import linear_runs


@pytest.mark.parametrize(
    ("name", "prompts", "guidance"),
    [
        ("three-levels", ("a cross", "a circle"), 4.0),
        ("two-levels", ("a cross",), 1.0),
        ("learned-variance", ("3", "7"), 3.0),
    ],
)
def test_they_end_where_diffusers_does(
    pipelines: Callable[[str], Path], name: str, prompts: tuple[str, ...], guidance: float
) -> None:
    opened = open_pipeline(pipelines(name))
    size = opened.denoiser.config.sample_size
    runs = sample_trajectories(
        opened,
        prompts,
        grid=TimestepGrid(5),
        guidance=guidance,
        noise_shape=(4, size, size),
        seed=3,
    )
    theirs = sample(opened, Request(prompts, 5, guidance, latents=runs.noise)).latents[-1]
    assert runs.error(theirs).max() < 1e-5
    # Pseudo linear multistep visits a timestep twice; a position belongs to one.
    assert len(set(runs.timesteps.tolist())) == len(runs.timesteps)


def test_predictions_that_are_not_finite_are_refused(pipelines: Callable[[str], Path]) -> None:
    opened = open_pipeline(pipelines("two-levels"))
    size = opened.denoiser.config.sample_size
    opened.denoiser.conv_out.bias.data[0] = float("nan")
    with pytest.raises(
        SearchError, match=r"not finite at call 0 \(timestep .*\) for 'a cross'; check"
    ):
        sample_trajectories(
            opened,
            ("a cross",),
            grid=TimestepGrid(2),
            guidance=3.0,
            noise_shape=(4, size, size),
            seed=3,
        )


def test_on_the_grid_everything_is_what_it_was() -> None:
    runs = linear_runs()
    for i in (0, 3, runs.last):
        assert torch.allclose(runs.latents_at(torch.tensor(float(i))), runs.latents[i], atol=1e-6)
        assert runs.timestep_at(torch.tensor(float(i))).item() == pytest.approx(
            runs.timesteps[i].item()
        )
        assert runs.position_of(runs.timesteps[i].item()) == pytest.approx(i)


def test_between_the_steps_it_is_smooth() -> None:
    runs = linear_runs(steps=8)
    between = runs.latents_at(torch.tensor(3.5))
    ends = (runs.latents[3] - runs.latents[4]).norm()
    assert (between - (runs.latents[3] + runs.latents[4]) / 2).norm() < 0.05 * ends


def test_a_position_is_where_its_timestep_is_on_an_uneven_grid_too() -> None:
    uneven = replace(linear_runs(5), timesteps=torch.tensor([999.0, 790.0, 430.0, 60.0, 0.0]))
    for wanted in (990.0, 600.0, 425.0, 59.0, 5.0):
        found = uneven.timestep_at(torch.tensor(uneven.position_of(wanted)))
        assert found.item() == pytest.approx(wanted, abs=0.01)


def test_timesteps_outside_are_the_nearest_inside() -> None:
    runs = linear_runs()
    assert runs.position_of(2000) == 0
    assert runs.position_of(0) == runs.last


def test_the_error_is_that_of_each_picture() -> None:
    runs = linear_runs()
    wrong = runs.final.clone()
    wrong[1] *= 1.5
    assert runs.error(wrong).tolist() == pytest.approx([0, 0.5, 0, 0], abs=1e-6)
