"""The SuperNet, against diffusers' pipeline, the gated reference and finite differences."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from search.core.actions import Action
from search.core.errors import SearchError
from search.core.sampler import FittedSampler, SamplerTable
from search.core.subnet import Granularity
from search.core.timestep_grid import TimestepGrid
from search.model.family import Request
from search.model.reference import sample
from search.supernet.supernet import CHOICES, CHOICES_WITH_DELTA, Case, SuperNet, supernet
from tests.hand_gating import gated_by_hand
from tests.search.supernet.random_gates import (
    actions_of,
    case_of,
    hard_gates,
    opened,
    soft_gates,
)

NAMES = ("three-levels", "two-levels", "learned-variance")
Find = Callable[[str], Path]
EACH_GRANULARITY = pytest.mark.parametrize(
    "granularity",
    [
        pytest.param(Granularity.STAGE, marks=pytest.mark.slow),
        Granularity.BRANCH,
        Granularity.LAYER,
    ],
)


def difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def request_of(net: SuperNet, case: Case) -> Request:
    prompt, steps = net.pipeline.family.default_prompt, net.full.binding.inference_steps
    prompts = (prompt,) * len(case.noise)
    return Request(prompts, steps, net.full.guidance, latents=case.noise)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) for name in NAMES] + ["shapes-sd"]
)
def test_with_all_gates_on_run_it_is_diffusers_pipeline(pipelines: Find, name: str) -> None:
    pipeline, whole = opened(pipelines(name), steps=6)
    with supernet(pipeline, whole) as net:
        case = case_of(net, images=2)
        found = net.run(net.full_gates(), case)
    expected = sample(pipeline, request_of(net, case))
    assert difference(found.latents[-1], expected.latents[-1]) <= 1e-5
    assert difference(found.predictions, torch.stack(expected.predictions)) <= 1e-5
    assert difference(found.latents[:-1], torch.stack(expected.inputs)) <= 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_a_fitted_sampler_is_used_with_its_own_timesteps(pipelines: Find, name: str) -> None:
    pipeline, whole = opened(pipelines(name), steps=6)
    table = pipeline.sampler(TimestepGrid(6))
    rows = np.vstack([table.inputs[:1], 0.9 * table.inputs[1:]])
    own = SamplerTable(rows, 1.1 * table.final)
    times = tuple(time - 0.5 for time in whole.timesteps)
    fitted = dataclasses.replace(whole, fitted=FittedSampler(times, own))
    with supernet(pipeline, fitted) as net:
        case = case_of(net)
        found = net.run(net.full_gates(), case)
    expected = sample(pipeline, request_of(net, case), fitted)
    assert difference(found.latents[-1], expected.latents[-1]) <= 1e-5
    assert difference(found.latents[-1], sample(pipeline, request_of(net, case)).latents[-1]) > 0.01


@EACH_GRANULARITY
@pytest.mark.parametrize("name", NAMES)
def test_with_hard_gates_it_is_the_gated_reference(
    pipelines: Find, name: str, granularity: Granularity
) -> None:
    pipeline, whole = opened(pipelines(name), steps=6, granularity=granularity)
    for seed in range(2):
        with supernet(pipeline, whole) as net:
            gates = hard_gates(net, seed)
            case = case_of(net)
            found = net.run(gates, case)
            plain = net.run(net.full_gates(), case)
        rows = tuple(map(tuple, actions_of(net, gates)))
        subnet = dataclasses.replace(whole, actions=rows)
        expected = sample(pipeline, request_of(net, case), subnet)
        assert difference(found.latents[-1], expected.latents[-1]) <= 1e-5
        assert difference(found.latents[-1], plain.latents[-1]) > 1e-4, "the gates do something"


@EACH_GRANULARITY
@pytest.mark.parametrize("name", NAMES)
def test_with_hard_gates_delta_is_that_of_blocks_gated_by_hand(
    pipelines: Find, name: str, granularity: Granularity
) -> None:
    pipeline, whole = opened(pipelines(name), steps=6, granularity=granularity)
    with supernet(pipeline, whole, choices=CHOICES_WITH_DELTA) as net:
        gates = hard_gates(net)
        case = case_of(net)
        found = net.run(gates, case)
    rows = actions_of(net, gates)
    assert any(Action.DELTA in row for row in rows)
    with gated_by_hand(
        pipeline.denoiser,
        dataclasses.replace(whole, actions=tuple(map(tuple, rows))),
        pipeline.family,
    ):
        expected = sample(pipeline, request_of(net, case))
    assert difference(found.latents[-1], expected.latents[-1]) <= 1e-5


def loss_of(net: SuperNet, gates: Tensor, case: Case) -> Tensor:
    """Depends on every latent and every prediction."""
    run = net.run(gates, case)
    return (run.latents**2).mean() + run.predictions.sin().mean()


@pytest.mark.parametrize("every", [0, 1, 3])
@pytest.mark.parametrize("granularity", [Granularity.STAGE, Granularity.LAYER])
@pytest.mark.parametrize("name", ["three-levels", "learned-variance"])
def test_gradients_agree_with_finite_differences(
    pipelines: Find, name: str, granularity: Granularity, every: int
) -> None:
    pipeline, whole = opened(pipelines(name), steps=4, granularity=granularity, double=True)
    with supernet(pipeline, whole, choices=CHOICES_WITH_DELTA, every=every) as net:
        case = case_of(net)
        gates = soft_gates(net).requires_grad_()
        (gradient,) = torch.autograd.grad(loss_of(net, gates, case), gates)
        generator = torch.manual_seed(3)
        for _ in range(6):
            direction = torch.randn(net.shape, generator=generator, dtype=torch.float64)
            direction[:, ~net.allowed] = 0
            direction[0] = 0
            ahead = loss_of(net, gates.detach() + 1e-5 * direction, case)
            behind = loss_of(net, gates.detach() - 1e-5 * direction, case)
            expected = (ahead - behind) / 2e-5
            assert float((gradient * direction).sum()) == pytest.approx(float(expected), rel=1e-5)
    assert gradient[0].abs().max() == 0, "step 0 runs everything"
    assert gradient[1:, net.allowed].abs().min() > 0, "every other gate is felt"


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("granularity", [Granularity.STAGE, Granularity.LAYER])
@pytest.mark.parametrize("name", ["three-levels", "learned-variance"])
def test_checkpointing_does_not_change_gradients(
    pipelines: Find, name: str, granularity: Granularity, hard: bool
) -> None:
    pipeline, whole = opened(pipelines(name), steps=5, granularity=granularity, double=True)
    found = []
    for every in (0, 1, 2, 5):
        with supernet(pipeline, whole, choices=CHOICES_WITH_DELTA, every=every) as net:
            gates = (hard_gates if hard else soft_gates)(net).requires_grad_()
            (gradient,) = torch.autograd.grad(loss_of(net, gates, case_of(net)), gates)
            found.append(gradient)
    for other in found[1:]:
        assert difference(other, found[0]) <= 1e-12


def test_gates_of_exactly_one_have_the_gradient_of_the_formula(pipelines: Find) -> None:
    """The short cuts at 0 and 1 against gates so close to them that none is taken."""
    pipeline, whole = opened(pipelines("three-levels"), steps=5, double=True)
    found = []
    for nudge in (0.0, 1e-9):
        with supernet(pipeline, whole, choices=CHOICES_WITH_DELTA) as net:
            gates = hard_gates(net)
            gates[:, net.allowed] += nudge
            gates.requires_grad_()
            found += torch.autograd.grad(loss_of(net, gates, case_of(net)), gates)
    assert difference(found[0], found[1]) <= 1e-6


def test_blocks_that_are_reused_are_not_called_on_the_way_there(pipelines: Find) -> None:
    pipeline, whole = opened(pipelines("three-levels"), steps=5)
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    handle = pipeline.denoiser.mid_block.resnets[0].register_forward_hook(count)
    with supernet(pipeline, whole) as net:
        gates = net.full_gates()
        gates[1:, whole.topology.blocks.index("mid_block")] = torch.tensor([0.0, 1.0])
        net.run(gates, case_of(net))
    handle.remove()
    assert calls == 1


def test_the_model_is_as_it_was_afterwards(pipelines: Find) -> None:
    pipeline, whole = opened(pipelines("three-levels"), steps=3)
    before = {name: set(vars(m)) for name, m in pipeline.denoiser.named_modules()}
    with pytest.raises(RuntimeError, match="stop"), supernet(pipeline, whole):
        raise RuntimeError("stop")
    assert before == {name: set(vars(m)) for name, m in pipeline.denoiser.named_modules()}


def test_what_does_not_fit_is_refused(pipelines: Find) -> None:
    pipeline, whole = opened(pipelines("three-levels"), steps=3)
    with supernet(pipeline, whole, choices=CHOICES_WITH_DELTA) as net:
        case = case_of(net)
        gates = torch.zeros(net.shape)
        with pytest.raises(SearchError, match=r"the gates have shape \(2, "):
            net.run(gates[:2], case)
        gates[..., 2] = 1
        with pytest.raises(
            SearchError, match=r"the gates give DELTA to down_blocks\.0\.downsamplers\.0, DELTA"
        ):
            net.run(gates, case)
        with pytest.raises(
            SearchError, match=r"but 2 prompts of this SubNet need \(2, 4, 12, 12\)"
        ):
            net.case(("", ""), case.noise)
    with (
        pytest.raises(SearchError, match="gates for RUN, REUSE and then others"),
        supernet(pipeline, whole, choices=CHOICES[::-1]),
    ):
        pass
