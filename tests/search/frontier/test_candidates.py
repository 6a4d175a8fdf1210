"""What is compared: costs, calls, rows, schedulers."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from search.core.actions import Action
from search.core.errors import SearchError
from search.core.liveness import unroll
from search.core.table import keep_of
from search.fitting.fit import final_latents
from search.frontier.calibration import Calibration, fitted, prepare, scheduler
from search.frontier.rivals.holding import HOLD, HOLD_SPACED, held, holding
from search.frontier.rivals.layers import DEEPCACHE, RANDOM
from search.frontier.rivals.searches import DIP_GO
from search.frontier.rivals.solvers import (
    DPM_SCHEDULER,
    DPM_SOLVER,
    FEWER_STEPS,
    UNIPC,
    few_steps,
)
from search.frontier.series import Series
from search.frontier.settings import FrontierSettings
from search.frontier.spacing import spacings
from search.methods import schedules
from search.model.family import Request
from search.model.opening import open_for, open_pipeline
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
    "method", [DIP_GO, FEWER_STEPS, DPM_SOLVER, UNIPC, HOLD, HOLD_SPACED, RANDOM]
)
def test_each_keep_has_a_candidate_that_costs_no_more(
    calibration: Calibration, method: Series
) -> None:
    found = method.make(calibration, silent)
    assert [each.keep for each in found] == [0.7, 0.5]
    for each, keep in zip(found, (0.7, 0.5), strict=True):
        assert keep - 1 / STEPS < keep_of(each.subnet) <= keep + 1e-9
        assert not each.is_fitted


def test_deepcache_takes_the_branch_that_does_best_at_each_keep(calibration: Calibration) -> None:
    for found in DEEPCACHE.make(calibration, silent):
        assert found.cost <= found.keep
        branches = schedules.deepcache_branches(calibration.whole.topology.blocks)
        others = [
            schedules.deepcache(calibration.whole, interval=interval, branch=branch)
            for branch in branches
            for interval in range(2, STEPS + 1)
        ]
        # Of one branch, a longer interval is no better.
        for branch in branches:
            cheap = [s for s in others if s.method.endswith(f"branch {branch}")]
            cheap = [s for s in cheap if keep_of(s) <= found.keep][:1]
            for each in cheap:
                other = replace(found, subnet=each)
                assert calibration.error(found) <= calibration.error(other)


def test_deepcache_is_refused_on_transformers(pipelines: Callable[[str], Path]) -> None:
    calibration = make_ground(pipelines("learned-variance"))
    with pytest.raises(SearchError, match="DeepCache needs a U-Net"):
        DEEPCACHE.make(calibration, silent)


def test_fewer_steps_have_the_sampler_they_are_named_after(
    calibration: Calibration, pipelines: Callable[[str], Path]
) -> None:
    before = calibration.pipeline.pipe.scheduler
    same, other = (method.make(calibration, silent)[1] for method in (FEWER_STEPS, DPM_SOLVER))
    assert same.subnet.binding.scheduler == "DDIMScheduler"
    assert other.subnet.binding.scheduler == "DPMSolverMultistepScheduler"
    assert calibration.pipeline.pipe.scheduler is before
    open_for(other.subnet, pipelines("three-levels"), weights=False)  # raises if bound to another


def test_solvers_have_the_best_of_their_orders_and_spacings(calibration: Calibration) -> None:
    (_, found) = DPM_SOLVER.make(calibration, silent)
    own = calibration.pipeline.pipe.scheduler
    assert "order" in found.label
    for order in (2, 3):
        with scheduler(calibration.pipeline, DPM_SCHEDULER, {"solver_order": order}):
            plain = few_steps(calibration, DPM_SOLVER, 0.5)
        assert calibration.error(found) <= calibration.error(plain)
    assert calibration.pipeline.pipe.scheduler is own


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
    even = HOLD.make(calibration, silent)
    spaced = HOLD_SPACED.make(calibration, silent)
    for one, other in zip(even, spaced, strict=True):
        assert one.subnet.timesteps != other.subnet.timesteps
    best = calibration.error(spaced[1])
    others = [
        calibration.error(held(calibration, HOLD_SPACED, 0.5, steps))
        for steps in spacings(STEPS, 3).values()
    ]
    assert best == min(others) < max(others)


def test_random_takes_the_best_of_its_tables(calibration: Calibration) -> None:
    best = RANDOM.make(calibration, silent)[1]
    assert {Action.REUSE} <= {a for row in best.subnet.actions for a in row}
    more = replace(calibration, settings=replace(SETTINGS, random=6))
    better = RANDOM.make(more, silent)[1]
    assert calibration.error(better) <= calibration.error(best)


def test_gates_do_not_mind_how_many_pictures_a_call_had(calibration: Calibration) -> None:
    """Gates that counted several calls per step would be out of step."""
    fitted_on, _ = calibration.together
    whole = fitted_on.predictor
    assert whole.chunks == 1
    several = Predictor(
        whole.pipeline,
        whole.prompts,
        guidance=whole.scales,
        noise_shape=whole.noise_shape,
        chunk=len(whole.prompts) - 1,
    )
    table = RANDOM.make(calibration, silent)[1].subnet
    both = [
        final_latents(
            calibration.pipeline,
            table,
            calibration.table,
            replace(fitted_on, predictor=each),
        )
        for each in (whole, several)
    ]
    torch.testing.assert_close(*both, rtol=1e-3, atol=1e-3)


def test_fitting_keeps_the_gates_and_helps(calibration: Calibration) -> None:
    plain = FEWER_STEPS.make(calibration, silent)[1]
    found = fitted(calibration, plain)
    assert found.is_fitted
    assert found.subnet.actions == plain.subnet.actions
    assert calibration.error(found) < calibration.error(plain)


def test_a_keep_of_less_than_one_call_is_refused(pipelines: Callable[[str], Path]) -> None:
    settings = replace(SETTINGS, keeps=(0.5, 0.1))
    with pytest.raises(SearchError, match=r"--keep 0\.1 of 6 calls is less than one call"):
        make_ground(pipelines("three-levels"), settings)
