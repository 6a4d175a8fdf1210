"""Each rival makes SubNets of the cost asked for; where there is a known answer, it is that."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.families import video
from search.core.actions import Action
from search.core.errors import SearchError
from search.core.liveness import unroll
from search.core.subnet import SubNet
from search.core.table import with_rows
from search.fitting.fit import final_latents
from search.fitting.trajectories import sample_both
from search.frontier.calibration import Calibration, prepare
from search.frontier.registry import SERIES
from search.frontier.rivals.bns import BNS
from search.frontier.rivals.guidance import EXTRAPOLATED_GUIDANCE, GUIDANCE_INTERVAL
from search.frontier.rivals.holding import held
from search.frontier.rivals.layers import (
    DEEPCACHE,
    FORA,
    SMOOTHCACHE,
    layer_changes,
    smooth_schedule,
)
from search.frontier.rivals.masks import BUDCACHE
from search.frontier.rivals.path_aware import forecast_candidate
from search.frontier.rivals.searches import CARVE, DIP_GO
from search.frontier.rivals.solvers import few_steps
from search.frontier.rivals.taylorseer import TAYLORSEER, TAYLORSEER_LITE
from search.frontier.rivals.times import OSS, divergence, student_paths
from search.frontier.series import Series
from search.frontier.settings import FrontierSettings
from search.methods.options import Options
from search.methods.registry import search
from search.model.noise_levels import noise_levels
from search.model.opening import open_pipeline
from search.model.predictor import Predictor

STEPS, KEEPS = 12, (0.75, 0.5)
SETTINGS = FrontierSettings(
    steps=STEPS, guidance=3.0, keeps=KEEPS, pictures=4, iterations=1, random=3
)
RIVALS = tuple(
    each for each in SERIES if each not in (CARVE, DIP_GO, DEEPCACHE, EXTRAPOLATED_GUIDANCE)
)
"""All that a transformer with both predictions in one call can have."""
LONG = frozenset({"unipc", "dpm-solver", "hold-spaced", "guidance-interval", "taylorseer", "bns"})
"""They try many settings, or refine."""


def silent(text: str, share: float | None = None) -> None:
    pass


@pytest.fixture(scope="module")
def calibration(pipelines: Callable[[str], Path]) -> Calibration:
    """Of a small DiT."""
    return prepare(open_pipeline(pipelines("learned-variance")), SETTINGS, ("0", "1"), silent)


def steps_of(calibration: Calibration, subnet: SubNet) -> list[int]:
    """Which of the full sampler's steps a SubNet of whole calls makes."""
    timesteps = calibration.whole.timesteps
    return [timesteps.index(timestep) for timestep in subnet.timesteps]


@pytest.mark.parametrize(
    "series",
    [
        pytest.param(each, marks=[pytest.mark.slow] if each.name in LONG else [], id=each.name)
        for each in RIVALS
    ],
)
def test_a_rival_makes_subnets_that_cost_no_more_than_asked(
    calibration: Calibration, series: Series
) -> None:
    found = series.make(calibration, silent)
    assert [each.keep for each in found] == list(KEEPS)[: len(found)]
    for each in found:
        assert each.method is series
        assert 0.6 * each.keep < each.cost <= each.keep + 1e-9
        assert np.isfinite(calibration.error(each))
        if not each.unguided:
            SubNet.from_json(each.subnet.to_json(), "what it wrote")


def test_steps_of_full_timesteps_are_distinct(calibration: Calibration) -> None:
    """Which the tests below rely on."""
    assert len(set(calibration.whole.timesteps)) == STEPS


def test_ays_costs_are_the_integral_of_the_change_of_the_clean_latents(
    calibration: Calibration,
) -> None:
    """Against sums over single pictures and steps, with the clean latents by hand; the toy predicts v."""
    runs = calibration.fitted_on
    config = calibration.pipeline.pipe.scheduler.config
    assert config["prediction_type"] == "v_prediction"
    alphas = calibration.pipeline.pipe.scheduler.alphas_cumprod.double()
    times = [int(t) for t in runs.timesteps]
    clean = torch.stack(
        [
            alphas[t].sqrt() * x.double() - (1 - alphas[t]).sqrt() * made.double()
            for x, made, t in zip(runs.latents, runs.predictions, times, strict=True)
        ]
    )
    clean = clean / runs.final.double().flatten(1).norm(dim=1)[:, None, None, None]
    snr = alphas[times] / (1 - alphas[times])
    found = divergence(calibration)
    for i, j in ((0, 4), (3, 9), (5, STEPS)):
        expected = 0.0
        for k in range(i, min(j, STEPS - 1)):
            both = [float((clean[m] - clean[i]).square().sum()) for m in (k, k + 1)]
            expected += float(snr[k + 1] - snr[k]) / 2 * sum(both) / 2
        assert found[i, j] == pytest.approx(expected, rel=1e-3)
    assert noise_levels(calibration.pipeline.pipe.scheduler, times)[0] == pytest.approx(
        float(snr[0] ** -0.5), rel=1e-4
    )


def test_oss_follows_states_that_holding_reaches(calibration: Calibration) -> None:
    """With all calls it is the full sampler; with fewer, its steps are better than most even ones."""
    runs = calibration.fitted_on.first_pictures(2)
    paths = student_paths(calibration, runs, STEPS, silent)
    assert [len(path) for path in paths] == [*range(1, STEPS + 1)]
    assert paths[-1] == tuple(range(STEPS))
    exact = held(calibration, OSS, 1.0, paths[-1])
    final = final_latents(calibration.pipeline, exact.subnet, exact.table, runs)
    assert float(runs.error(final).max()) < 1e-4
    random = np.random.default_rng(0)
    ours = calibration.error(held(calibration, OSS, 0.5, paths[5]))
    others = [
        calibration.error(
            held(calibration, OSS, 0.5, (0, *sorted(random.permutation(range(1, STEPS))[:5])))
        )
        for _ in range(8)
    ]
    assert ours < np.median(others)


@pytest.mark.slow
def test_bns_begins_at_the_schedulers_own_steps_and_never_ends_worse(
    calibration: Calibration,
) -> None:
    many = replace(calibration, settings=replace(SETTINGS, iterations=8, keeps=(0.5,)))
    (found,) = BNS.make(many, silent)
    own = few_steps(calibration, BNS, 0.5)
    assert found.is_fitted
    assert found.subnet.steps == own.subnet.steps
    assert calibration.error(found) < calibration.error(own)
    # The first timestep is the scheduler's own; the others have moved by less than a gap, which is 166.
    assert found.subnet.timesteps[0] == pytest.approx(own.subnet.timesteps[0], abs=1)
    assert found.subnet.timesteps == pytest.approx(own.subnet.timesteps, abs=120)


def test_taylorseer_lite_computes_the_steps_that_openvino_does(
    pipelines: Callable[[str], Path],
) -> None:
    """At interval 3: 22 of 50 steps, the first 6 and the last 2 among them."""
    settings = replace(SETTINGS, steps=50, keeps=(0.44,), pictures=2)
    many = prepare(open_pipeline(pipelines("learned-variance")), settings, ("0",), silent)
    (found,) = TAYLORSEER_LITE.make(many, silent)
    assert found.label == "keep 0.44 interval 3"
    steps = steps_of(many, found.subnet)
    assert steps == [0, 1, 2, 3, 4, 5, *range(8, 48, 3), 48, 49]
    assert len(steps) == 22


def test_a_forecast_row_is_the_line_through_the_last_two_predictions(
    calibration: Calibration,
) -> None:
    """Against the full sampler's table with predictions replaced one by one; the first gap is held."""
    computed = (0, 3, 5, 10)
    found = forecast_candidate(calibration, TAYLORSEER_LITE, 0.5, computed)
    predictions = torch.randn(len(computed), 6, generator=torch.manual_seed(0)).double().numpy()
    noise = torch.randn(6, generator=torch.manual_seed(1)).double().numpy()
    every: list[Any] = []
    for step in range(STEPS):
        known = [s for s in computed if s <= step]
        last = predictions[len(known) - 1]
        if step in computed or len(known) < 2:
            every.append(last)
        else:
            slope = (last - predictions[len(known) - 2]) / (known[-1] - known[-2])
            every.append(last + (step - known[-1]) * slope)
    expected = calibration.table.final @ np.stack([noise, *every])
    got = found.table.final @ np.stack([noise, *predictions])
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)


def test_taylorseer_forecasts_attention_and_feed_forward_of_every_block(
    calibration: Calibration,
) -> None:
    found = TAYLORSEER.make(calibration, silent)[-1].subnet
    names = found.topology.blocks
    forecast = {
        names[b] for row in found.actions for b, a in enumerate(row) if a is Action.FORECAST
    }
    assert forecast == {
        f"transformer_blocks.{i}.{part}" for i in range(3) for part in ("attn1", "ff")
    }
    rows = [Action.FORECAST in row for row in found.actions]
    assert not any(rows[:3]), "the first three steps are computed"
    cells = {(step, block): weights for step, block, weights in found.coefficients}
    assert all(sum(weights) == pytest.approx(1) for weights in cells.values())


def test_fora_reuses_at_every_step_but_the_nth(calibration: Calibration) -> None:
    found = FORA.make(calibration, silent)[-1]
    interval = int(found.label.split()[-1])
    for step, row in enumerate(found.subnet.actions):
        assert (Action.REUSE in row) == bool(step % interval)


def test_smoothcache_measures_how_far_outputs_move(calibration: Calibration) -> None:
    """Against hooks on the modules while the full sampler runs."""
    seen: dict[str, list[torch.Tensor]] = {}
    handles = [
        module.register_forward_hook(
            lambda _m, _a, out, name=name: seen.setdefault(name, []).append(out)
        )
        for name, module in calibration.pipeline.denoiser.named_modules()
        if name.endswith(("attn1", "ff"))
    ]
    runs = calibration.few
    final_latents(calibration.pipeline, calibration.whole, calibration.table, runs)
    for handle in handles:
        handle.remove()
    found = layer_changes(calibration)
    assert set(found) == {"attn1", "ff"}
    for kind in found:
        outputs = [each for name, each in seen.items() if name.endswith(kind)]
        for before, step in ((0, 1), (2, 5)):
            moved = [
                float((o[step] - o[before]).abs().sum() / o[step].abs().sum()) for o in outputs
            ]
            assert found[kind][before, step] == pytest.approx(np.mean(moved), rel=1e-3)


def test_smoothcache_computes_once_an_output_has_moved() -> None:
    """Each step moves by 1: a threshold of 2 allows two reuses after each computed step."""
    pairs = {(a, b): float(b - a) for a in range(9) for b in range(a + 1, 9)}
    found = smooth_schedule({"ff": pairs}, 2.0, 9)
    assert found.computes["ff", None] == (True, False, False) * 3


def test_smoothcache_is_exact_where_nothing_may_move(calibration: Calibration) -> None:
    everything = smooth_schedule(layer_changes(calibration), -1.0, STEPS)
    assert all(all(row) for row in everything.computes.values())
    assert SMOOTHCACHE.make(calibration, silent)[0].cost > 0.6


def test_budcache_holds_the_residual_of_the_whole_stack(calibration: Calibration) -> None:
    found = BUDCACHE.make(calibration, silent)[-1].subnet
    kinds = set(found.actions)
    assert kinds == {(Action.RUN,) * 3, (Action.DELTA,) * 3}


def test_an_unguided_call_is_the_prediction_with_the_prompt_alone(
    calibration: Calibration,
) -> None:
    """Against the pipeline without guidance, whose batch is half as large."""
    runs = calibration.few
    alone = Predictor(
        calibration.pipeline,
        runs.predictor.prompts,
        guidance=1.0,
        noise_shape=runs.predictor.noise_shape,
    )
    assert not alone.guided
    timestep = runs.timesteps[3]
    with torch.no_grad():
        expected = alone(runs.noise, timestep)
        found = runs.predictor(runs.noise, timestep, guidance=1.0)
        guided = runs.predictor(runs.noise, timestep)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert float((guided - expected).norm()) > 1e-2 * float(expected.norm())


def test_a_call_without_guidance_costs_half(calibration: Calibration) -> None:
    for each in GUIDANCE_INTERVAL.make(calibration, silent):
        calls = len(unroll(each.subnet).calls)
        assert each.unguided
        assert each.cost == pytest.approx((calls - len(each.unguided) / 2) / STEPS)


def test_guidance_of_one_call_for_both_cannot_be_extrapolated(calibration: Calibration) -> None:
    with pytest.raises(SearchError, match="made in one call of the denoiser"):
        EXTRAPOLATED_GUIDANCE.make(calibration, silent)


@contextmanager
def answering(denoiser: Any, computes: list[bool], *, is_line: bool) -> Iterator[None]:
    """While open, the second call of a step that does not compute it is held or on a line, by hand."""
    made: list[tuple[int, Any]] = []
    number = 0

    def hook(_module: Any, _args: Any, output: Any) -> Any:
        nonlocal number
        step, stream = divmod(number, 2)
        number += 1
        if stream == 0:
            return output
        if computes[step]:
            made.append((step, output))
            return output
        (before, first), (last, second) = made[-2:]
        slope = (step - last) / (last - before) if is_line else 0.0
        mixed = second[0] + slope * (second[0] - first[0])
        return (mixed, *second[1:]) if isinstance(second, tuple) else mixed

    handle = denoiser.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.slow
def test_guidance_of_two_streams_is_extrapolated_at_the_end(tmp_path: Path) -> None:
    """Against the denoiser's second call answered by hand."""
    toy = {each.cls: each for each in video.TOYS}["WanPipeline"]
    toy.build().save_pretrained(tmp_path)
    pipeline = open_pipeline(tmp_path)
    size = {name: toy.call[name] for name in ("height", "width")}
    options = Options(steps=6, guidance=3.0, frames=toy.call["num_frames"], **size)
    whole = search(pipeline, "full", options)
    runs = sample_both(
        pipeline,
        whole,
        ("a", "b"),
        fitted_on=2,
        held_out=2,
        reference_steps=None,
        seed=0,
        report=silent,
    )
    settings = replace(SETTINGS, steps=6, keeps=(0.75,))
    table = pipeline.sampler(whole.binding.grid, pipeline.size(whole.binding.noise_shape))
    calibration = Calibration(pipeline, settings, ("a", "b"), whole, table, *runs)
    (found,) = EXTRAPOLATED_GUIDANCE.make(calibration, silent)
    assert found.cost <= 0.75
    block = whole.topology.blocks.index("uncond")
    computes = [row[block] is Action.RUN for row in found.subnet.actions]
    assert computes == sorted(computes, reverse=True)
    assert sum(computes) >= 2
    for action in (Action.REUSE, Action.FORECAST):
        rows = [
            [Action.RUN if b != block or computes[step] else action for b in range(len(row))]
            for step, row in enumerate(found.subnet.actions)
        ]
        subnet = with_rows(found.subnet, rows)
        if action is Action.FORECAST:
            last, before = [s for s, c in enumerate(computes) if c][:-3:-1]
            lines = [
                (1 + (s - last) / (last - before), -(s - last) / (last - before)) for s in range(6)
            ]
            subnet = replace(
                subnet, coefficients=tuple((s, b, lines[s]) for s, b, _ in subnet.coefficients)
            )
        got = final_latents(pipeline, subnet, found.table, runs[0])
        plain = with_rows(found.subnet, [[Action.RUN] * len(row) for row in rows])
        with answering(pipeline.denoiser, computes, is_line=action is Action.FORECAST):
            expected = final_latents(pipeline, plain, found.table, runs[0])
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)
