"""Rows that read both halves of guidance, against whole calls and the gated reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from search import apply
from search.core.actions import Action
from search.core.streams import is_inside
from search.core.subnet import SubNet
from search.core.table import keep_of, with_rows
from search.fitting.fit import final_latents
from search.fitting.half_calls import Halves, gated_runs
from search.fitting.paired import can_pair, paired
from search.fitting.placed import assess, overall
from search.fitting.rows import Calls, run_chain
from search.fitting.trajectories import Trajectories, sample_trajectories
from search.methods.options import Options
from search.methods.whole import full
from search.model.opening import open_pipeline
from search.model.pipeline import Pipeline
from tests.search.fitting.two_calls import opened_in_two, with_own_rows

STEPS, GUIDANCE = 3, 5.0
PROMPTS = ("a red cross", "a blue circle", "a green field", "a black star")
Find = Callable[[str], Path]


@pytest.fixture(scope="module")
def opened(pipelines: Find) -> Pipeline:
    return opened_in_two(pipelines("three-levels"))


@pytest.fixture(scope="module")
def whole(opened: Pipeline) -> SubNet:
    return with_own_rows(opened, steps=STEPS, guidance=GUIDANCE)


def sampled(opened: Pipeline, whole: SubNet, seed: int, steps: int = STEPS) -> Trajectories:
    longer = full(opened, Options(steps=steps, guidance=GUIDANCE))
    return sample_trajectories(
        opened,
        PROMPTS,
        grid=longer.binding.grid,
        guidance=GUIDANCE,
        noise_shape=whole.binding.noise_shape,
        seed=seed,
    )


@pytest.fixture(scope="module")
def runs(opened: Pipeline, whole: SubNet) -> Trajectories:
    return sampled(opened, whole, 3)


def thin(subnet: SubNet) -> SubNet:
    """`subnet` with some blocks of both calls left out, in every way there is."""
    rows = [list(row) for row in subnet.actions]
    for half, name in enumerate(("cond", "uncond")):
        blocks = subnet.topology.blocks
        inner = [n for n in subnet.topology.based if is_inside(blocks[n], name)]
        rows[0][inner[8 + half]] = Action.SKIP
        for call, block in ((1, 0), (1, 3), (2, 4)):
            rows[call][inner[block + half]] = (Action.REUSE, Action.DELTA)[half]
        rows[2][inner[6 + half]] = Action.FORECAST
    return with_rows(subnet, rows)


def test_the_same_rows_make_the_same_pictures_at_the_same_cost(
    opened: Pipeline, whole: SubNet, runs: Trajectories
) -> None:
    halved = Halves(1, 0).of(whole)
    assert halved is not None
    for subnet, steps in ((whole, 6), (halved, 5), (thin(whole), 6), (thin(halved), 5)):
        pairs = paired(whole, subnet, runs)
        assert pairs.subnet.steps == steps
        assert keep_of(pairs.subnet) == pytest.approx(keep_of(subnet), rel=0.01)
        assert subnet.fitted is not None
        assert pairs.subnet.fitted is not None
        expected = final_latents(opened, subnet, subnet.fitted.table, runs)
        reference = final_latents(opened, pairs.subnet, pairs.subnet.fitted.table, runs)
        calls = Calls.at_numbers(pairs.placed.positions, runs)
        with gated_runs(opened, pairs.whole, pairs.subnet, runs) as (gated,), torch.no_grad():
            found = run_chain(gated, calls, pairs.placed.rows)
            error = pairs.evaluated(gated).error
        assert error == pytest.approx(float(overall(runs.error(expected))), rel=1e-3, abs=1e-5)
        for made in (reference, found):
            assert float((made - expected).norm() / expected.norm()) < 1e-4


def test_forecasts_keep_their_coefficients(
    opened: Pipeline, whole: SubNet, runs: Trajectories
) -> None:
    found = thin(whole)
    own = tuple((call, block, (1.5, -0.4)) for call, block, _ in found.coefficients)
    found = replace(found, coefficients=own)
    pairs = paired(whole, found, runs).subnet
    assert found.fitted is not None
    assert pairs.fitted is not None
    expected = final_latents(opened, found, found.fitted.table, runs)
    made = final_latents(opened, pairs, pairs.fitted.table, runs)
    assert float((made - expected).norm() / expected.norm()) < 1e-4


def test_a_half_call_stays_one_step(whole: SubNet, runs: Trajectories) -> None:
    halved = Halves(0, 1, Action.DELTA).of(whole)
    assert halved is not None
    cells = [
        tuple(row[whole.topology.blocks.index(name)] for name in ("cond", "uncond"))
        for row in paired(whole, halved, runs).subnet.actions
    ]
    pair = [(Action.RUN, Action.SKIP), (Action.REUSE, Action.RUN)]
    assert cells == [*pair, *pair, (Action.RUN, Action.DELTA)]


def test_rows_of_both_halves_come_closer(opened: Pipeline, whole: SubNet) -> None:
    few, others = (sampled(opened, whole, seed, steps=12) for seed in (1, 2))
    alone = assess(few, others, [0.0, 4.0, 8.0])
    pairs = paired(whole, whole, few)
    positions = (0.0, 0.0, 4.0, 4.0, 8.0, 8.0)
    pairs = replace(pairs, placed=replace(pairs.placed, positions=positions))
    with gated_runs(opened, pairs.whole, pairs.subnet, few, others) as gated:
        both = pairs.fitted(*gated)
    assert both.error < 0.95 * alone.error


def test_a_call_that_is_left_out_is_not_computed_in_the_search(
    opened: Pipeline, whole: SubNet, runs: Trajectories
) -> None:
    """All but the first of the calls with the negative prompt, before which nothing has been computed."""
    pairs, made = paired(whole, whole, runs), list[int]()
    calls = Calls.at_numbers(pairs.placed.positions, runs)
    block = opened.denoiser.mid_block
    handle = block.register_forward_hook(lambda *_: made.append(1))
    try:
        with gated_runs(opened, pairs.whole, pairs.subnet, runs) as (gated,), torch.no_grad():
            run_chain(gated, calls, pairs.placed.rows)
            before = len(made)
            run_chain(gated, calls, pairs.placed.rows)
    finally:
        handle.remove()
    assert len(made) - before == 2 * STEPS + 1


def test_applied_to_a_pipeline_it_makes_what_the_reference_makes(
    opened: Pipeline, whole: SubNet, runs: Trajectories, pipelines: Find
) -> None:
    subnet = paired(whole, whole, runs).subnet
    assert subnet.fitted is not None
    one = runs.first_pictures(1)
    expected = final_latents(opened, subnet, subnet.fitted.table, one)
    pipe = open_pipeline(pipelines("three-levels")).pipe
    with apply(pipe, subnet):
        made = pipe(
            PROMPTS[0],
            num_inference_steps=subnet.steps,
            guidance_scale=GUIDANCE,
            latents=one.noise,
            output_type="latent",
        ).images
    np.testing.assert_allclose(made.numpy(), expected.numpy(), atol=1e-4)


def test_one_call_for_both_halves_has_none(pipelines: Find, whole: SubNet) -> None:
    assert can_pair(whole.topology)
    plain = full(open_pipeline(pipelines("three-levels")), Options(steps=STEPS, guidance=GUIDANCE))
    assert not can_pair(plain.topology)
