"""Calls with gated blocks in the place of whole ones, against the gated reference and finite differences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from search.core.actions import Action
from search.core.sampler import FittedSampler
from search.core.subnet import Granularity, SubNet
from search.core.table import with_rows
from search.fitting.effects import measure_effects
from search.fitting.effort import PROBES
from search.fitting.fit import final_latents
from search.fitting.gated_calls import CHOICES, GatedPredictor, gates_of
from search.fitting.placed import Placed
from search.fitting.rows import Calls, run_chain
from search.fitting.thin import placed_of
from search.fitting.trajectories import Trajectories, sample_trajectories
from search.model.pipeline import Pipeline
from search.supernet.supernet import SuperNet, supernet
from tests.search.supernet.random_gates import opened

STEPS = 4
Find = Callable[[str], Path]


def setting(path: Path, pictures: int) -> tuple[Pipeline, SubNet, Trajectories]:
    """A pipeline, its calls with the scheduler's own rows as a fitted sampler, and its runs."""
    pipeline, whole = opened(path, steps=STEPS, granularity=Granularity.LAYER)
    shape = whole.binding.noise_shape
    table = pipeline.sampler(whole.binding.grid, pipeline.size(shape))
    runs = sample_trajectories(
        pipeline,
        [pipeline.family.default_prompt] * pictures,
        grid=whole.binding.grid,
        guidance=whole.guidance,
        noise_shape=shape,
        seed=3,
    )
    return pipeline, replace(whole, fitted=FittedSampler(whole.timesteps, table)), runs


def drawn(whole: SubNet, seed: int) -> SubNet:
    """Random actions: whatever each block may do at each call."""
    random, rows = np.random.default_rng(seed), [list(row) for row in whole.actions]
    for block in range(len(whole.topology.blocks)):
        based, runs = block in whole.topology.based, 0
        for call in range(whole.steps):
            may = [Action.RUN] * 3
            may += [Action.SKIP] if based else []
            may += [Action.REUSE] if call else []
            may += [Action.DELTA] if based and runs else []
            may += [Action.FORECAST] if runs > 1 else []
            rows[call][block] = may[random.integers(len(may))]
            runs += rows[call][block] is Action.RUN
    return with_rows(whole, rows)


def final(runs: Trajectories, placed: Placed, net: SuperNet, gates: Tensor) -> Tensor:
    gated = runs.by(GatedPredictor(runs.predictor, net, gates))
    return run_chain(gated, Calls.at_numbers(placed.positions, runs), placed.rows)


@pytest.mark.parametrize(
    "name",
    [
        "three-levels",
        "learned-variance",
        pytest.param("flux-schnell", marks=pytest.mark.slow),
        pytest.param("two-levels", marks=pytest.mark.slow),
    ],
)
def test_they_do_what_the_gated_reference_does(pipelines: Find, name: str) -> None:
    pipeline, whole, runs = setting(pipelines(name), 2)
    placed = placed_of(whole, runs)
    assert whole.fitted is not None
    for seed in range(2):
        thin = drawn(whole, seed)
        expected = final_latents(pipeline, thin, whole.fitted.table, runs)
        with supernet(pipeline, whole, choices=CHOICES) as net:
            gates = gates_of(net, thin)
            with torch.no_grad():
                found = final(runs, placed, net, gates)
            felt = final(runs, placed, net, gates.requires_grad_()).detach()
        scale = expected.norm()
        assert float((found - expected).norm() / scale) < 1e-4
        assert float((felt - found).norm() / scale) < 1e-5, "whatever is handed on"
        assert float((runs.final - expected).norm() / scale) > 1e-3, "the actions do something"


def test_a_product_is_that_of_the_effect_with_a_direction(pipelines: Find) -> None:
    pipeline, whole, runs = setting(pipelines("three-levels"), 1)
    # An error, since pictures weigh as much as theirs is small.
    runs = replace(runs, final=1.1 * runs.final)
    placed, step = placed_of(whole, runs), 1e-2
    with supernet(pipeline, whole, choices=CHOICES) as net:
        products = measure_effects(runs, net, placed, seed=5)
        assert products.shape == (PROBES, *net.shape)
        generator = torch.Generator().manual_seed(5)
        directions = [torch.randn(runs.final.shape, generator=generator) for _ in range(PROBES)]
        full = net.full_gates()
        random = np.random.default_rng(0)
        felt = np.abs(products).min(0) > 1e-3 * np.abs(products).max()
        felt[0] = False  # nothing is in the cache
        cells = np.argwhere(felt & net.allowed.numpy())
        for choice in range(1, len(CHOICES)):
            call, block, _ = random.choice(cells[cells[:, 2] == choice])
            moved = torch.zeros_like(full)
            moved[call, block, choice], moved[call, block, 0] = step, -step
            with torch.no_grad():
                ahead, behind = (final(runs, placed, net, full + s * moved) for s in (1, -1))
            effect = (ahead - behind) / (2 * step) / runs.final.norm()
            expected = [float((effect * v).sum()) / PROBES**0.5 for v in directions]
            assert products[:, call, block, choice] == pytest.approx(expected, rel=0.05, abs=1e-4)


def test_a_block_that_is_left_out_is_not_called(pipelines: Find) -> None:
    pipeline, whole, runs = setting(pipelines("three-levels"), 1)
    block = next(b for b in whole.topology.based if "resnets" in whole.topology.blocks[b])
    rows = [list(row) for row in whole.actions]
    for row in rows[1:]:
        row[block] = Action.SKIP
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    module = pipeline.denoiser.get_submodule(whole.topology.blocks[block])
    handle = next(module.children()).register_forward_hook(count)
    with supernet(pipeline, whole, choices=CHOICES) as net:
        gates = gates_of(net, with_rows(whole, rows))
        final(runs, placed_of(whole, runs), net, gates)
        assert calls == 1 + STEPS, "once, and in every whole call before"
    handle.remove()
