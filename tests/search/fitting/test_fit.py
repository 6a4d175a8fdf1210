"""Fitted samplers for SubNets of any method."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from search.core.subnet import SubNet
from search.core.timestep_grid import TimestepGrid
from search.fitting.fit import fit_sampler
from search.fitting.trajectories import Trajectories, sample_trajectories
from search.methods.options import Options
from search.methods.registry import search
from search.model.family import Request
from search.model.opening import open_pipeline
from search.model.pipeline import Pipeline
from search.model.reference import sample

STEPS, GUIDANCE = 16, 4.0
PROMPTS = (
    "a large red cross left on a grey field",
    "a small blue circle above on a white field",
)


@pytest.fixture(scope="module")
def opened(pipelines: Callable[[str], Path]) -> Pipeline:
    return open_pipeline(pipelines("shapes-sd"))


@pytest.fixture(scope="module")
def runs(opened: Pipeline) -> tuple[Trajectories, Trajectories]:
    made = [
        sample_trajectories(
            opened,
            PROMPTS,
            grid=TimestepGrid(STEPS),
            guidance=GUIDANCE,
            noise_shape=(4, 16, 16),
            seed=seed,
        )
        for seed in (0, 1)
    ]
    return made[0], made[1]


@pytest.mark.parametrize(
    ("method", "extra"),
    [("deepcache", {"interval": 3}), ("fewer-steps", {"keep": 0.5})],
)
def test_a_fit_comes_closer_and_the_reference_obeys_it(
    opened: Pipeline,
    runs: tuple[Trajectories, Trajectories],
    method: str,
    extra: dict[str, float],
) -> None:
    subnet = search(opened, method, Options(steps=STEPS, guidance=GUIDANCE, **extra))
    table = opened.sampler(subnet.binding.grid)
    fit = fit_sampler(opened, subnet, table, fitted_on=runs[0], held_out=runs[1])
    assert fit.error < fit.plain
    for each, error in ((subnet, fit.plain), (fit.subnet, fit.error)):
        assert _error_of(opened, each, runs[1]) == pytest.approx(error, rel=1e-3)


@pytest.mark.slow
def test_where_it_does_not_help_the_scheduler_keeps_its_rows(
    opened: Pipeline, runs: tuple[Trajectories, Trajectories]
) -> None:
    whole = search(opened, "full", Options(steps=STEPS, guidance=GUIDANCE))
    table = opened.sampler(TimestepGrid(STEPS))
    fit = fit_sampler(opened, whole, table, fitted_on=runs[0], held_out=runs[1])
    assert fit.subnet is whole
    assert fit.error == fit.plain < 1e-6


def _error_of(opened: Pipeline, subnet: SubNet, runs: Trajectories) -> float:
    """By diffusers' own pipeline."""
    request = Request(PROMPTS, subnet.binding.inference_steps, GUIDANCE, latents=runs.noise)
    final = sample(opened, request, subnet).latents[-1]
    return float(runs.error(torch.as_tensor(final)).mean())
