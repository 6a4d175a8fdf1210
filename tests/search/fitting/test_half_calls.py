"""Half calls, against guidance that is switched off by hand, and through the whole path."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engines.base import make_engine
from engines.parity import verify
from exporter.exporting import export
from search.core.actions import Action
from search.core.sampler import FittedSampler
from search.core.subnet import SubNet
from search.core.table import keep_of
from search.core.timestep_grid import TimestepGrid
from search.fitting import half_calls
from search.fitting.effort import Effort
from search.fitting.fit import final_latents
from search.fitting.half_calls import HalfCalls, Halves, gated_runs, unconditional_calls
from search.fitting.placed import Placed
from search.fitting.recipe import place_calls
from search.fitting.rows import Calls, run_chain
from search.fitting.thin import placed_of
from search.fitting.trajectories import Trajectories, sample_trajectories
from search.methods.options import Options
from search.methods.whole import full
from search.model.opening import open_pipeline
from search.model.pipeline import Pipeline
from tests.search.fitting.two_calls import opened_in_two, with_own_rows

STEPS, GUIDANCE = 4, 3.0
PROMPTS = ("a red cross", "a blue circle")
EFFORT = Effort(fitted_on=3, held_out=2, iterations=2)


@pytest.fixture(scope="module")
def opened(pipelines: Callable[[str], Path]) -> Pipeline:
    return opened_in_two(pipelines("three-levels"))


@pytest.fixture(scope="module")
def whole(opened: Pipeline) -> SubNet:
    return with_own_rows(opened, steps=STEPS, guidance=GUIDANCE)


@pytest.fixture(scope="module")
def runs(opened: Pipeline, whole: SubNet) -> Trajectories:
    return sample_trajectories(
        opened,
        PROMPTS,
        grid=whole.binding.grid,
        guidance=GUIDANCE,
        noise_shape=whole.binding.noise_shape,
        seed=3,
    )


def column(subnet: SubNet) -> list[Action]:
    """What takes the place of the call with the negative prompt, per step."""
    return [row[subnet.topology.blocks.index("uncond")] for row in subnet.actions]


def test_the_first_and_the_last_ones_are_half_calls(whole: SubNet) -> None:
    halved = Halves(1, 2, Action.DELTA).of(whole)
    assert halved is not None
    assert column(halved) == [Action.SKIP, Action.RUN, Action.DELTA, Action.DELTA]
    assert keep_of(halved) == pytest.approx(5 / 8, rel=0.02)
    assert all(
        action is Action.RUN
        for row in halved.actions
        for name, action in zip(whole.topology.blocks, row, strict=True)
        if name != "uncond"
    )
    assert Halves(2, 2).of(whole) is None, "no call would have guidance"


def test_a_pipeline_with_both_halves_in_one_call_has_none(
    pipelines: Callable[[str], Path], whole: SubNet
) -> None:
    names = [whole.topology.blocks[b] for b in unconditional_calls(whole.topology)]
    assert names == ["uncond"]
    plain = full(open_pipeline(pipelines("three-levels")), Options(steps=STEPS, guidance=GUIDANCE))
    assert unconditional_calls(plain.topology) == ()


def test_a_skipped_one_is_a_call_without_guidance(
    opened: Pipeline, whole: SubNet, runs: Trajectories
) -> None:
    halved = Halves(1, 1).of(whole)
    assert halved is not None
    assert whole.fitted is not None
    by_hand = final_latents(opened, whole, whole.fitted.table, runs, unguided={0, STEPS - 1})
    placed = placed_of(whole, runs)
    calls = Calls.at_numbers(placed.positions, runs)
    with gated_runs(opened, whole, halved, runs) as (gated,), torch.no_grad():
        found = run_chain(gated, calls, placed.rows)
    reference = final_latents(opened, halved, whole.fitted.table, runs)
    scale = by_hand.norm()
    assert float((found - by_hand).norm() / scale) < 1e-4
    assert float((reference - by_hand).norm() / scale) < 1e-4
    assert float((runs.final - by_hand).norm() / scale) > 1e-3, "guidance shows"


def test_the_direction_of_guidance_is_that_of_the_gated_reference(
    opened: Pipeline, whole: SubNet, runs: Trajectories
) -> None:
    halved = Halves(1, 2, Action.DELTA).of(whole)
    assert halved is not None
    assert whole.fitted is not None
    reference = final_latents(opened, halved, whole.fitted.table, runs)
    without = final_latents(
        opened, whole, whole.fitted.table, runs, unguided={0, STEPS - 2, STEPS - 1}
    )
    placed = placed_of(whole, runs)
    calls = Calls.at_numbers(placed.positions, runs)
    with gated_runs(opened, whole, halved, runs) as (gated,), torch.no_grad():
        found = run_chain(gated, calls, placed.rows)
    scale = reference.norm()
    assert float((found - reference).norm() / scale) < 1e-5
    assert float((found - without).norm() / scale) > 1e-4, "it is not without guidance"


def test_they_are_chosen_until_they_are_no_better(
    opened: Pipeline, whole: SubNet, runs: Trajectories, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last call is best without guidance, the first one is worst, and the fourth call does not pay."""

    def error(_fit: object, gated: Trajectories, positions: list[float]) -> Placed:
        worth = {3: 0.5, 4: 2.0}[len(positions)]
        return Placed((), (), worth + (cells[-1][0] is Action.SKIP))

    cells: list[list[Action]] = []
    kept = half_calls.gated_runs

    def noted(pipeline: Pipeline, all_of: SubNet, subnet: SubNet, *both: Trajectories) -> object:
        cells.append(column(subnet))
        return kept(pipeline, all_of, subnet, *both)

    monkeypatch.setattr(half_calls, "gated_runs", noted)
    monkeypatch.setattr(half_calls, "assess", error)
    grid, size = TimestepGrid(3), opened.size(whole.binding.noise_shape)
    fitted = FittedSampler(opened.timesteps(grid, size), opened.sampler(grid, size))
    three = replace(whole, actions=whole.actions[:3], fitted=fitted)
    task = HalfCalls(opened, 0.5 + 1e-3, keep_of, runs, runs)
    found = task.chosen([three, whole], 1.0)
    assert found is not None
    assert (found.halves, found.subnet.steps) == (Halves(0, 2), 3)
    assert task.chosen([three, whole], 0.4) is None, "two whole calls are better"


def test_found_ones_keep_the_budget_and_pass_verify(
    pipelines: Callable[[str], Path], opened: Pipeline, whole: SubNet, tmp_path: Path
) -> None:
    found = place_calls(opened, replace(whole, fitted=None), (0.65,), PROMPTS, effort=EFFORT)[0]
    assert keep_of(found) <= 0.65
    assert len({*found.timesteps}) == 3
    assert {*column(found)} > {Action.RUN}
    bundle = export(pipelines("three-levels"), found, tmp_path / "bundle")
    engine = make_engine("onnxruntime", "cpu")
    parity, _ = verify(bundle, [engine], pipelines("three-levels"), prompt="a red cross")
    assert parity.passed, parity.failures


def test_without_thin_calls_all_are_whole(opened: Pipeline, whole: SubNet) -> None:
    plain = replace(whole, fitted=None)
    found = place_calls(opened, plain, (0.65,), PROMPTS, effort=EFFORT, thin=False)[0]
    assert found.steps == 2
    assert {*column(found)} == {Action.RUN}
