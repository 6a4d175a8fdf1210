"""What is compared: costs, calls, rows, schedulers."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from search.frontier.candidates import Calibration, fitted, holding, make_plain, prepare, scheduler

from search.core.actions import Action
from search.core.errors import SearchError
from search.core.liveness import unroll
from search.core.table import keep_of
from search.fitting.fit import final_latents
from search.frontier.series import (
    DEEPCACHE,
    DIP_GO,
    DPM_SOLVER,
    FEWER_STEPS,
    HOLD,
    HOLD_SPACED,
    RANDOM,
    Series,
)
from search.frontier.settings import FrontierSettings
from search.frontier.spacing import spacings
from search.model.family import Request
from search.model.pipeline import open_for, open_pipeline
from search.model.predictor import Predictor
from search.model.reference import sample

STEPS = 6
SETTINGS = FrontierSettings(
    steps=STEPS,
    guidance=3.0,
    keeps=(0.7, 0.5),
    pictures=8,
    iterations=2,
    random=2,
    dip_go_iterations=1,
)
PROMPTS = ("0", "1")
"""Both a text and a class."""


def silent(text: str, share: float | None = None) -> None:
    pass


def make_ground(path: Path, settings: FrontierSettings = SETTINGS) -> Calibration:
    pipeline = open_pipeline(path)
    return prepare(pipeline, settings, PROMPTS, silent)


@pytest.fixture(scope="module")
def calibration(pipelines: Callable[[str], Path]) -> Calibration:
    return make_ground(pipelines("three-levels"))


@pytest.mark.parametrize(
    "method", [DIP_GO, FEWER_STEPS, DPM_SOLVER, HOLD,
               HOLD_SPACED, RANDOM],
)  # fmt: skip
def test_each_keep_has_a_candidate_that_costs_no_more(
    calibration: Calibration, method: Series
) -> None:
    found = make_plain(calibration, method, silent)
    assert [each.keep for each in found] == [0.7, 0.5]
    for each, keep in zip(found, (0.7, 0.5), strict=True):
        assert keep - 1 / STEPS < keep_of(each.subnet) <= keep + 1e-9
        assert not each.is_fitted


def test_deepcache_has_every_branch_and_interval_that_is_cheap_enough(
    calibration: Calibration,
) -> None:
    found = make_plain(calibration, DEEPCACHE, silent)
    assert len({each.subnet.actions for each in found}) == len(found) > 3
    assert {each.label for each in found} >= {"interval 2 branch 0", "interval 6 branch 0"}
    assert len({each.label.split()[-1] for each in found}) > 1, "more than one branch"
    costs = [keep_of(each.subnet) for each in found]
    assert max(costs) <= 0.7
    assert len(set(costs)) == len(costs), "each has a cost of its own"


def test_deepcache_is_refused_on_transformers(pipelines: Callable[[str], Path]) -> None:
    calibration = make_ground(pipelines("learned-variance"))
    with pytest.raises(SearchError, match="DeepCache needs a U-Net"):
        make_plain(calibration, DEEPCACHE, silent)


def test_fewer_steps_have_the_sampler_they_are_named_after(
    calibration: Calibration, pipelines: Callable[[str], Path]
) -> None:
    before = calibration.pipeline.pipe.scheduler
    same, other = (
        make_plain(calibration, method, silent)[1] for method in (FEWER_STEPS, DPM_SOLVER)
    )
    assert same.subnet.binding.scheduler == "DDIMScheduler"
    assert other.subnet.binding.scheduler == "DPMSolverMultistepScheduler"
    assert calibration.pipeline.pipe.scheduler is before
    open_for(other.subnet, pipelines("three-levels"), weights=False)  # raises if bound to another


def test_dpm_solver_is_left_out_where_it_is_the_full_sampler(
    pipelines: Callable[[str], Path],
) -> None:
    pipeline = open_pipeline(pipelines("three-levels"))
    own = pipeline.pipe.scheduler
    with scheduler(pipeline, "DPMSolverMultistepScheduler"):
        calibration = prepare(pipeline, SETTINGS, PROMPTS, silent)
        with pytest.raises(SearchError, match=r"DPM-Solver\+\+ itself"):
            make_plain(calibration, DPM_SOLVER, silent)
    assert pipeline.pipe.scheduler is own


@pytest.mark.parametrize("name", ["three-levels", "learned-variance"])
def test_holding_is_the_full_grid_with_predictions_repeated(
    pipelines: Callable[[str], Path], name: str
) -> None:
    """Against diffusers' own pipeline and scheduler, its denoiser answering some calls from memory."""
    pipeline = open_pipeline(pipelines(name))
    calibration = prepare(pipeline, SETTINGS, PROMPTS, silent)
    subnet, table = holding(calibration.whole, calibration.table, (0, 2, 5), "by hand")
    assert len(unroll(subnet).calls) == 3
    assert keep_of(subnet) == pytest.approx(3 / STEPS)
    noise = torch.randn(1, *subnet.binding.latent_shape, generator=torch.Generator().manual_seed(1))
    request = Request(prompts=("0",), steps=STEPS, guidance=3.0, latents=noise)
    steps, forward = itertools.count(), pipeline.denoiser.forward
    remembered: list[object] = []

    def hold(*args: object, **kwargs: object) -> object:
        if next(steps) in (0, 2, 5):
            remembered.append(forward(*args, **kwargs))
        return remembered[-1]

    pipeline.denoiser.forward = hold
    expected = sample(pipeline, request).latents[-1]
    del pipeline.denoiser.forward
    found = sample(pipeline, request, subnet).latents[-1]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert subnet.fitted is not None
    assert subnet.fitted.table == table


def test_the_best_spacing_is_no_worse_than_the_others(calibration: Calibration) -> None:
    even = make_plain(calibration, HOLD, silent)
    spaced = make_plain(calibration, HOLD_SPACED, silent)
    for one, other in zip(even, spaced, strict=True):
        assert one.subnet.timesteps != other.subnet.timesteps
    best = calibration.error(spaced[1].subnet, spaced[1].table)
    others = [
        calibration.error(*holding(calibration.whole, calibration.table, steps, name))
        for name, steps in spacings(STEPS, 3).items()
    ]
    assert best == min(others) < max(others)


def test_random_takes_the_best_of_its_tables(calibration: Calibration) -> None:
    best = make_plain(calibration, RANDOM, silent)[1]
    assert {Action.REUSE} <= {a for row in best.subnet.actions for a in row}
    more = Calibration(
        **{**vars(calibration), "settings": FrontierSettings(**{**vars(SETTINGS), "random": 6})}
    )
    better = make_plain(more, RANDOM, silent)[1]
    assert calibration.error(better.subnet, better.table) <= calibration.error(
        best.subnet, best.table
    )


def test_gates_do_not_mind_how_many_pictures_a_call_had(calibration: Calibration) -> None:
    """Gates that counted several calls per step would be out of step."""
    whole = calibration.fitted_on.predictor
    assert whole.chunks == 1
    several = Predictor(
        whole.pipeline,
        whole.prompts,
        guidance=whole.guidance,
        noise_shape=whole.noise_shape,
        chunk=len(whole.prompts) - 1,
    )
    table = make_plain(calibration, RANDOM, silent)[1].subnet
    both = [
        final_latents(
            calibration.pipeline,
            table,
            calibration.table,
            replace(calibration.fitted_on, predictor=each),
        )
        for each in (whole, several)
    ]
    torch.testing.assert_close(*both, rtol=1e-3, atol=1e-3)


def test_fitting_keeps_the_gates_and_helps(calibration: Calibration) -> None:
    plain = make_plain(calibration, FEWER_STEPS, silent)[1]
    found = fitted(calibration, plain)
    assert found.is_fitted
    assert found.subnet.actions == plain.subnet.actions
    assert calibration.error(found.subnet, found.table) < calibration.error(
        plain.subnet, plain.table
    )


def test_a_keep_of_less_than_one_call_is_refused(pipelines: Callable[[str], Path]) -> None:
    settings = FrontierSettings(**{**vars(SETTINGS), "keeps": (0.5, 0.1)})
    with pytest.raises(SearchError, match=r"--keep 0\.1 of 6 calls is less than one call"):
        make_ground(pipelines("three-levels"), settings)
