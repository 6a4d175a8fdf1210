"""Schedulers as tables, against the schedulers themselves."""

from __future__ import annotations

from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from search.core.errors import SearchError
from search.core.sampler import SamplerTable
from search.core.timestep_grid import TimestepGrid
from search.model.scheduler import GridSettings, read_sampler

NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}

AFFINE: list[tuple[str, dict[str, Any]]] = [
    ("DDIMScheduler", {**NOISE, "clip_sample": False, "steps_offset": 1}),
    ("DDIMScheduler", {**NOISE, "clip_sample": False, "prediction_type": "v_prediction"}),
    ("PNDMScheduler", {**NOISE, "skip_prk_steps": True, "steps_offset": 1}),
    ("PNDMScheduler", {**NOISE, "skip_prk_steps": False}),
    ("DPMSolverMultistepScheduler", NOISE),
    ("DPMSolverMultistepScheduler", {**NOISE, "use_karras_sigmas": True, "solver_order": 3}),
    ("UniPCMultistepScheduler", NOISE),
    ("EulerDiscreteScheduler", NOISE),
    ("EulerDiscreteScheduler", {**NOISE, "timestep_spacing": "trailing"}),
    ("HeunDiscreteScheduler", NOISE),
    ("LMSDiscreteScheduler", NOISE),
    ("DEISMultistepScheduler", NOISE),
    ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
]

DRAWING: list[tuple[str, dict[str, Any]]] = [
    ("EulerAncestralDiscreteScheduler", NOISE),
    ("EulerAncestralDiscreteScheduler", {**NOISE, "timestep_spacing": "trailing"}),
    ("KDPM2AncestralDiscreteScheduler", NOISE),
    ("DDPMScheduler", {**NOISE, "clip_sample": False}),
    ("LCMScheduler", NOISE),
    ("TCDScheduler", NOISE),
    ("DPMSolverMultistepScheduler", {**NOISE, "algorithm_type": "sde-dpmsolver++"}),
    ("DPMSolverSinglestepScheduler", {**NOISE, "algorithm_type": "sde-dpmsolver++"}),
    ("SASolverScheduler", NOISE),
    ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0, "stochastic_sampling": True}),
    ("FlowMatchLCMScheduler", {"shift": 3.0}),
]

NOT_AFFINE: list[tuple[str, dict[str, Any]]] = [
    ("DDIMScheduler", {**NOISE, "clip_sample": True}),
    ("DPMSolverMultistepScheduler", {**NOISE, "thresholding": True}),
    ("DDPMScheduler", {**NOISE, "clip_sample": True}),
    ("LCMScheduler", {**NOISE, "clip_sample": True}),
]


def denoiser(sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    """Anything that is not linear and knows the time."""
    return torch.tanh(sample * 0.7 + torch.sin(timestep.float())) * 1.3


@pytest.mark.parametrize(("name", "config"), AFFINE)
@pytest.mark.parametrize("steps", [1, 4, 20])
def test_a_table_walks_like_its_scheduler(name: str, config: dict[str, Any], steps: int) -> None:
    if steps == 1 and not config.get("skip_prk_steps", True):
        steps = 5  # its four Runge-Kutta steps need as many
    scheduler = getattr(diffusers, name)(**config)
    table = read_sampler(scheduler, GridSettings(TimestepGrid(steps)))

    scheduler.set_timesteps(steps)
    noise = torch.randn(1, 4, 8, 8, generator=torch.manual_seed(0))
    latents = noise * getattr(scheduler, "init_noise_sigma", 1.0)
    stack = [noise.double().numpy()]
    for step, timestep in enumerate(scheduler.timesteps):
        scale = getattr(scheduler, "scale_model_input", lambda x, _: x)
        sample = scale(latents, timestep)
        mine = np.tensordot(table.inputs[step, : 1 + step], np.stack(stack), 1)
        np.testing.assert_allclose(mine, sample.numpy(), rtol=1e-4, atol=2e-5)
        prediction = denoiser(sample, timestep)
        stack.append(prediction.double().numpy())
        latents = scheduler.step(prediction, timestep, latents, return_dict=False)[0]
    final = np.tensordot(table.final, np.stack(stack), 1)
    np.testing.assert_allclose(final, latents.numpy(), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(("name", "config"), DRAWING)
def test_a_table_walks_like_a_scheduler_that_draws_noise(name: str, config: dict[str, Any]) -> None:
    scheduler = getattr(diffusers, name)(**config)
    table = read_sampler(scheduler, GridSettings(TimestepGrid(8)))
    assert table.noises == 8, "the last step adds none"

    def walk() -> tuple[list[torch.Tensor], torch.Tensor]:
        """Predictions and final latents; what is drawn comes from torch's own generator."""
        scheduler.set_timesteps(8)
        latents = torch.randn(1, 4, 8, 8) * getattr(scheduler, "init_noise_sigma", 1.0)
        predictions = []
        for timestep in scheduler.timesteps:
            scale = getattr(scheduler, "scale_model_input", lambda x, _: x)
            predictions.append(denoiser(scale(latents, timestep), timestep))
            latents = scheduler.step(predictions[-1], timestep, latents, return_dict=False)[0]
        return predictions, latents

    with torch.random.fork_rng():
        torch.manual_seed(3)
        noises = [torch.randn(1, 4, 8, 8) for _ in range(table.noises)]
        torch.manual_seed(3)
        predictions, latents = walk()
    stack = torch.stack([*noises, *predictions]).double().numpy()
    final = np.tensordot(table.final, stack, 1)
    np.testing.assert_allclose(final, latents.numpy(), rtol=1e-4, atol=2e-5)
    stack[table.noises - 1] = 0
    assert np.abs(np.tensordot(table.final, stack, 1) - final).max() > 1e-6


def test_noises_stay_when_predictions_are_reused() -> None:
    table = SamplerTable(
        inputs=np.array([[1.0, 0, 0, 0, 0], [1, 5, 2, 0, 0], [1, 6, 2, 3, 0]]),
        final=np.array([1.0, 7, 2, 3, 4]),
        noises=2,
    )
    merged = table.merge(source=[0, 0, 2], calls=[0, 2])
    np.testing.assert_array_equal(merged.inputs, [[1, 0, 0, 0], [1, 6, 5, 0]])
    np.testing.assert_array_equal(merged.final, [1, 7, 5, 4])
    assert (merged.noises, merged.predictions) == (2, 2)
    assert SamplerTable.from_json(merged.to_json()) == merged
    with pytest.raises(SearchError, match="the sampler draws 1 noises of its own"):
        merged.require_fixed()


@pytest.mark.parametrize(("name", "config"), NOT_AFFINE)
def test_a_sampler_that_is_not_affine_is_refused_by_name(name: str, config: dict[str, Any]) -> None:
    with pytest.raises(SearchError, match=f"the scheduler {name} is not an affine map"):
        read_sampler(getattr(diffusers, name)(**config), GridSettings(TimestepGrid(8)))


def test_reading_a_table_leaves_the_scheduler_alone() -> None:
    scheduler = diffusers.UniPCMultistepScheduler(**NOISE)
    scheduler.set_timesteps(7)
    before = scheduler.timesteps.clone()
    read_sampler(scheduler, GridSettings(TimestepGrid(20)))
    assert torch.equal(scheduler.timesteps, before)


def test_steps_that_share_a_prediction_merge_into_their_call() -> None:
    table = SamplerTable(
        inputs=np.array([[1.0, 0, 0, 0], [1, 2, 0, 0], [1, 2, 3, 0]]),
        final=np.array([1.0, 2, 3, 4]),
    )
    merged = table.merge(source=[0, 0, 2], calls=[0, 2])
    np.testing.assert_array_equal(merged.inputs, [[1, 0, 0], [1, 5, 0]])
    np.testing.assert_array_equal(merged.final, [1, 5, 4])


def test_ddim_that_holds_predictions_is_ddim_with_larger_steps() -> None:
    scheduler = diffusers.DDIMScheduler(**NOISE, clip_sample=False, set_alpha_to_one=False)
    every = read_sampler(scheduler, GridSettings(TimestepGrid(50)))
    held = every.merge([k - k % 5 for k in range(50)], range(0, 50, 5))
    kept = scheduler.alphas_cumprod.double().numpy()[np.arange(980, -1, -100)]
    # Song et al. 2021, eq. 12 with sigma 0, over the ten timesteps that keep a call.
    state = np.eye(11)[0]
    for k in range(10):
        np.testing.assert_allclose(held.inputs[k], state, atol=2e-6)
        after = kept[k + 1] if k < 9 else scheduler.final_alpha_cumprod.item()
        ratio = np.sqrt(after / kept[k])
        state = ratio * state
        state[1 + k] += np.sqrt(1 - after) - ratio * np.sqrt(1 - kept[k])
    np.testing.assert_allclose(held.final, state, atol=5e-6)


def test_a_table_is_read_back_from_json() -> None:
    table = read_sampler(
        diffusers.DDIMScheduler(**NOISE, clip_sample=False), GridSettings(TimestepGrid(6))
    )
    again = SamplerTable.from_json(table.to_json())
    np.testing.assert_array_equal(again.inputs, table.inputs)
    np.testing.assert_array_equal(again.final, table.final)
