"""Rows that are fitted for a range of guidance scales."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from search.core.errors import SearchError
from search.core.sampler import ScaleRange
from search.core.subnet import Granularity, SubNet
from search.core.table import keep_of
from search.fitting.adopt import adopt_sampler
from search.fitting.effort import Effort
from search.fitting.fit import final_latents, fit_subnets
from search.fitting.placed import evaluate
from search.fitting.placement import measure_local_errors
from search.fitting.recipe import place_calls
from search.fitting.refine import refine
from search.fitting.rows import Calls, fit_chain, rows_of, run_chain
from search.fitting.scaled import fitted_sampler, rows_for
from search.fitting.scheduled import scheduled
from search.fitting.thin import placed_of, thin_calls
from search.fitting.trajectories import Trajectories, sample_both, sample_trajectories
from search.fitting.whole_calls import Refinement
from search.methods.method import Task
from search.methods.options import Options
from search.methods.registry import search_keeps
from search.methods.whole import full
from search.model.opening import open_pipeline
from search.model.pipeline import Pipeline
from search.model.predictor import Predictor
from search.model.scheduler import combine
from tests.search.fitting.toy import guided_runs

SCALES = ScaleRange(2.0, 6.0, 3.0)
PLACES = (0.0, 1.5, 4.0, 6.0)
EFFORT = Effort(fitted_on=6, held_out=3, iterations=2)
PROMPTS = ("a red cross", "a blue circle", "a field")


def test_between_the_scales_rows_are_nearly_as_good_as_those_of_one_scale_alone() -> None:
    runs = guided_runs(SCALES.fitted_at, SCALES, rounds=6)
    calls = Calls.at_numbers(PLACES, runs)
    sampler = fitted_sampler(runs, evaluate(runs, calls, fit_chain(runs, calls).rows))

    def error(others: Trajectories, scale: float) -> float:
        rows = rows_of(sampler.at(scale).table)
        return float(others.error(run_chain(others, calls, rows)).mean())

    for scale in (2.0, 2.7, 3.0, 5.0, 6.0):
        others = guided_runs([scale], seed=1, rounds=6)
        alone = fit_chain(guided_runs([scale], rounds=6), calls).rows
        own = float(others.error(run_chain(others, calls, alone)).mean())
        assert error(others, scale) <= 1.3 * own
        assert error(others, 4.0) > 1.1 * own


def test_the_polynomial_makes_what_the_rows_made_at_each_scale() -> None:
    runs = guided_runs(SCALES.fitted_at, SCALES)
    calls = Calls.at_numbers(PLACES, runs)
    chain = fit_chain(runs, calls)
    sampler = fitted_sampler(runs, evaluate(runs, calls, chain.rows))
    by = sampler.by_scale
    assert by is not None
    ends = []
    for part, scale in zip(runs.of_each_scale(), SCALES.fitted_at, strict=True):
        place = (scale - SCALES.guidance) / (SCALES.high - SCALES.low)
        terms = [sampler.table, *by.powers]
        tables = np.stack([np.vstack([t.inputs, t.final]) for t in terms])
        rows: np.ndarray = np.asarray(np.polynomial.polynomial.polyval(place, tables))
        values = [part.noise]
        for row, position in zip(rows, PLACES, strict=False):
            time = part.timestep_at(torch.tensor(position))
            values.append(part.predictor(combine(row, values), time))
        ends.append(combine(rows[-1], values))
    for mask, end in zip(runs.masks(), ends, strict=True):
        assert torch.allclose(chain.final[mask], end, atol=1e-5)
    again = rows_for(runs, lambda scale: sampler.at(scale).table)
    assert torch.allclose(run_chain(runs, calls, again), chain.final, atol=1e-5)


def test_batches_have_every_scale_and_parts_one() -> None:
    runs = guided_runs(SCALES.fitted_at, SCALES, rounds=3, size=2)
    batches = runs.batches(6, seed=0)
    for _ in range(4):
        batch = next(batches)
        assert sorted(batch.predictor.scales) == sorted(SCALES.fitted_at)
        assert len(batch.noise) == 6
    for part, scale in zip(runs.of_each_scale(), SCALES.fitted_at, strict=True):
        assert set(part.predictor.scales) == {scale}
        assert len(part.noise) == 6
    assert len(runs.some(1).noise) == 6


def test_local_errors_are_those_of_rows_for_each_scale() -> None:
    runs = guided_runs(SCALES.fitted_at, SCALES)
    found = measure_local_errors(runs).error
    parts = [replace(part, scales=None, scale_of=None) for part in runs.of_each_scale()]
    alone = [measure_local_errors(part).error for part in parts]
    assert np.allclose(found, np.sqrt(np.mean(np.square(alone), axis=0)))


def test_refinement_lowers_the_error_of_all_scales_together() -> None:
    runs, held_out = (guided_runs(SCALES.fitted_at, SCALES, seed=seed) for seed in (0, 1))
    calls = Calls.at_numbers(PLACES[:2], runs)
    start = evaluate(held_out, calls, fit_chain(runs, calls).rows)
    schedule = Effort().schedule(2, 6, 0)
    found = refine(runs, held_out, start, schedule)
    assert len(found.errors) == 3
    assert all(after < before for after, before in zip(found.errors, start.errors, strict=True))


@pytest.fixture(scope="module")
def opened(pipelines: Callable[[str], Path]) -> Pipeline:
    return open_pipeline(pipelines("three-levels"))


@pytest.fixture(scope="module")
def whole(opened: Pipeline) -> SubNet:
    return full(opened, Options(steps=6, guidance=SCALES.guidance))


@pytest.mark.slow
def test_calls_have_the_scales_in_turn(opened: Pipeline, whole: SubNet) -> None:
    shape = whole.binding.noise_shape
    several = Predictor(
        opened, (*PROMPTS, "another"), guidance=(2.0, 5.0), noise_shape=shape, chunk=1
    )
    sample = torch.randn(4, *several.latent_shape)
    time = torch.tensor(500.0)
    found = several(sample, time)
    for number, scale in enumerate((2.0, 5.0, 2.0, 5.0)):
        prompt = several.prompts[number]
        alone = Predictor(opened, (prompt,), guidance=scale, noise_shape=shape)
        assert torch.allclose(found[number : number + 1], alone(sample[number : number + 1], time))
        again = several.alone(number)(sample[number : number + 1], time)
        assert torch.allclose(found[number : number + 1], again)
    with pytest.raises(AssertionError, match="several guidance scales"):
        several.first(2)


@pytest.mark.slow
def test_a_search_fits_rows_for_the_range(opened: Pipeline, whole: SubNet) -> None:
    [found] = place_calls(opened, whole, (0.5,), PROMPTS, effort=EFFORT, thin=False, scales=SCALES)
    assert found.guidance_range == (2.0, 6.0)
    assert found.fitted is not None
    assert found.fitted.by_scale is not None
    held_out = sample_trajectories(
        opened, PROMPTS, grid=whole.binding.grid, guidance=SCALES.guidance,
        noise_shape=whole.binding.noise_shape, seed=9, scales=SCALES,
    )  # fmt: skip
    ranged = placed_of(found, held_out).error
    fixed = placed_of(found.at(6.0), held_out).error
    plain = scheduled(opened, whole, held_out=held_out, count=found.steps)
    assert plain is not None
    assert ranged != fixed
    assert max(ranged, fixed) < 0.5 * plain.error, "guidance hardly shows in random weights"


@pytest.mark.slow
def test_calls_for_a_range_are_thinned(opened: Pipeline) -> None:
    options = Options(steps=4, guidance=SCALES.guidance, granularity=Granularity.LAYER)
    whole = full(opened, options)
    [calls] = place_calls(opened, whole, (0.75,), PROMPTS, effort=EFFORT, thin=False, scales=SCALES)
    runs = sample_both(
        opened, whole, PROMPTS, fitted_on=6, held_out=3, reference_steps=None, seed=0, scales=SCALES,
        report=lambda *_: None,
    )  # fmt: skip
    refinement = Refinement(*runs, EFFORT, 2, 0, lambda *_: None)
    thin = thin_calls(opened, calls, 0.7, refinement, lambda *_: None)
    assert thin is not None
    assert keep_of(thin.subnet) <= 0.7
    assert thin.subnet.guidance_range == (2.0, 6.0)
    assert placed_of(thin.subnet.at(3.0), runs[1]).error < 1


@pytest.mark.slow
def test_gated_subnets_are_fitted_at_each_scale(opened: Pipeline) -> None:
    options = Options(
        steps=6, guidance=SCALES.guidance, interval=2, fit_sampler=True, guidance_range=(2.0, 6.0),
        prompts=PROMPTS,
    )  # fmt: skip
    [found] = search_keeps(opened, "deepcache", options, (0.5,))
    assert found.guidance_range == (2.0, 6.0)
    task = Task(opened, options, (0.5,), lambda _: 1.0)
    for scale in SCALES.fitted_at:
        there = replace(task.whole, guidance=scale)
        bare = replace(found, fitted=None)
        [alone] = fit_subnets(
            opened, there, [bare], PROMPTS, reference_steps=None, seed=0, report=lambda *_: None
        )
        runs = sample_trajectories(
            opened, PROMPTS, grid=bare.binding.grid, guidance=scale,
            noise_shape=bare.binding.noise_shape, seed=5,
        )  # fmt: skip
        expected = final_latents(opened, bare, opened.sampler_of(alone), runs)
        table = opened.sampler_of(found.at(scale))
        assert torch.allclose(final_latents(opened, bare, table, runs), expected, atol=1e-4)


def test_a_range_needs_pictures_guidance_and_a_fit(opened: Pipeline, whole: SubNet) -> None:
    few = replace(EFFORT, held_out=2)
    with pytest.raises(SearchError, match=r"fitted at 3 scales, .* give more --pictures"):
        place_calls(opened, whole, (0.5,), PROMPTS, effort=few, scales=SCALES)
    off = Options(steps=6, guidance=3.0, guidance_range=(1.0, 4.0))
    with pytest.raises(SearchError, match="guidance 1 in --guidance-range switches guidance off"):
        search_keeps(opened, "carve", off, (0.5,))
    with pytest.raises(SearchError, match="nothing is fitted; add --fit-sampler"):
        search_keeps(opened, "full", replace(off, guidance_range=(2.0, 4.0)), (0.5,))


def test_an_adopted_sampler_keeps_its_range(whole: SubNet) -> None:
    runs = guided_runs(SCALES.fitted_at, SCALES, steps=6)
    calls = Calls.at_numbers((0.0, 2.0), runs)
    rows = fitted_sampler(runs, evaluate(runs, calls, fit_chain(runs, calls).rows))
    found = replace(whole, actions=whole.actions[:2], fitted=rows)
    adopted = adopt_sampler(replace(whole, guidance=5.0), found)
    assert adopted.guidance_range == (2.0, 6.0)
    assert adopted.fitted is not None
    assert np.allclose(adopted.fitted.table.inputs, rows.at(5.0).table.inputs)
    with pytest.raises(SearchError, match=r"guidance 9 was requested, .* fitted for 2 to 6"):
        adopt_sampler(replace(whole, guidance=9.0), found)
