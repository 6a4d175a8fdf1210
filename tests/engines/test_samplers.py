"""Samplers that draw noise, through the public call of diffusers' own pipelines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchLCMScheduler

from engines.base import make_engine
from engines.errors import EngineError
from engines.parity import verify
from engines.runner import Runner
from exporter.bundle import Bundle
from exporter.export import export
from search.errors import SearchError
from search.methods import search, search_keeps
from search.model.pipeline import Pipeline, open_pipeline
from search.options import Options
from search.schedules import with_actions
from search.subnet import Action, SubNet
from tests.hand_gating import gated_by_hand

MakeBundle = Callable[[str, SubNet], Bundle]
TOLERANCE = 1e-4
PROMPT = "a small red circle left on a grey field"


def open_with(path: Path, scheduler: str, *, weights: bool = True) -> Pipeline:
    opened = open_pipeline(path, weights=weights)
    opened.use_scheduler(scheduler)
    return opened


def holding(whole: SubNet) -> SubNet:
    """Every third prediction is the one before: those steps make no call."""
    return with_actions(
        whole, lambda t, _: Action.REUSE if t % 3 == 2 else Action.RUN, method="by hand"
    )


def latents_of_diffusers(opened: Pipeline, subnet: SubNet, **arguments: Any) -> np.ndarray:
    """Straight through diffusers' public call, with what the SubNet reuses reused by hand."""
    with gated_by_hand(opened.denoiser, subnet):
        found: torch.Tensor = opened.pipe(
            prompt=PROMPT,
            guidance_scale=subnet.guidance,
            num_inference_steps=subnet.binding.inference_steps,
            output_type="latent",
            **arguments,
        ).images
    return found.numpy()


def runner_of(bundle: Bundle) -> Runner:
    return Runner(bundle, make_engine("onnxruntime", "cpu"))


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize(
    ("name", "scheduler", "steps"),
    [
        ("three-levels", "EulerAncestralDiscreteScheduler", 8),
        ("lcm", "LCMScheduler", 6),
        *(
            pytest.param("three-levels", f"{each}Scheduler", 8, marks=pytest.mark.slow)
            for each in ("DDPM", "KDPM2AncestralDiscrete", "TCD", "SASolver")
        ),
    ],
)
def test_a_seed_gives_the_latents_of_diffusers(
    pipelines: Callable[[str], Path],
    make_bundle: MakeBundle,
    name: str,
    scheduler: str,
    steps: int,
) -> None:
    opened = open_with(pipelines(name), scheduler)
    subnet = holding(search(opened, "full", Options(steps=steps)))
    bundle = make_bundle(name, subnet)
    assert bundle.sampler.noises > 1 or scheduler == "TCDScheduler", "the pipeline has it draw none"
    assert len(bundle.calls) < subnet.steps
    found = runner_of(bundle).run(PROMPT, seed=3).latents
    generator = torch.Generator()
    expected = latents_of_diffusers(opened, subnet, generator=generator.manual_seed(3))
    assert relative(found, expected) <= TOLERANCE
    other = latents_of_diffusers(opened, subnet, generator=generator.manual_seed(4))
    assert relative(found, other) > TOLERANCE


def test_given_noise_is_followed_by_that_of_the_seed(
    pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    """Of several images at once."""
    opened = open_with(pipelines("three-levels"), "EulerAncestralDiscreteScheduler")
    subnet = search(opened, "full", Options(steps=3))
    bundle = export(pipelines("three-levels"), subnet, tmp_path / "bundle", batch=2)
    noise = np.random.default_rng(3).standard_normal(bundle.latent_shape).astype(np.float32)
    found = runner_of(bundle).run(PROMPT, latents=noise, seed=5).latents
    expected = latents_of_diffusers(
        opened,
        subnet,
        latents=torch.from_numpy(noise),
        num_images_per_prompt=2,
        generator=torch.Generator().manual_seed(5),
    )
    assert relative(found, expected) <= TOLERANCE
    assert relative(runner_of(bundle).run(PROMPT, latents=noise).latents, expected) > TOLERANCE


def test_packed_latents_draw_packed_noise(pipelines: Callable[[str], Path], tmp_path: Path) -> None:
    """FluxPipeline hands its scheduler no generator, so the seed is that of torch's own."""
    path = tmp_path / "flux"
    made = open_pipeline(pipelines("flux-schnell")).pipe
    made.scheduler = FlowMatchLCMScheduler(shift=3.0)
    made.save_pretrained(path)
    opened = open_pipeline(path)
    subnet = search(opened, "full", Options(steps=4, guidance=0.0, height=16, width=24))
    bundle = export(path, subnet, tmp_path / "bundle")
    assert bundle.sampler.noises == 4
    with torch.random.fork_rng():
        torch.manual_seed(3)
        expected = latents_of_diffusers(opened, subnet, height=16, width=24)
    assert relative(runner_of(bundle).run(PROMPT, seed=3).latents, expected) <= TOLERANCE
    parity, _ = verify(bundle, make_engine("onnxruntime", "cpu"), path, prompt=PROMPT, seed=1)
    assert parity.failures == ()


def test_parity_is_verified_with_the_noise_of_the_seed(
    pipelines: Callable[[str], Path], make_bundle: MakeBundle
) -> None:
    opened = open_with(pipelines("lcm"), "LCMScheduler", weights=False)
    bundle = make_bundle("lcm", holding(search(opened, "full", Options(steps=6))))
    engine = make_engine("onnxruntime", "cpu")
    assert verify(bundle, engine, pipelines("lcm"), prompt=PROMPT, seed=1)[0].failures == ()


def test_an_embedded_guidance_scale_is_kept(
    pipelines: Callable[[str], Path], make_bundle: MakeBundle
) -> None:
    opened = open_with(pipelines("lcm"), "LCMScheduler", weights=False)
    subnet = search(opened, "full", Options(steps=2))
    assert not subnet.binding.guided
    with pytest.raises(EngineError, match=r"guidance 2 was asked for, but .* for 7\.5 alone"):
        runner_of(make_bundle("lcm", subnet)).run(PROMPT, guidance=2.0)


def test_nothing_is_fitted_to_a_sampler_that_draws_noise(
    pipelines: Callable[[str], Path],
) -> None:
    opened = open_with(pipelines("three-levels"), "EulerAncestralDiscreteScheduler")
    asked = Options(steps=3, fit_sampler=True, pictures=2)
    for method, options in (
        ("full", asked),
        ("dip-go", replace(asked, fit_sampler=None)),
        ("dip-go", replace(asked, fit_sampler=None, recipe="paper")),
    ):
        with pytest.raises(SearchError, match="the sampler draws 2 noises of its own, so there is"):
            search_keeps(opened, method, options, [1.0])


def test_noise_for_more_than_the_pictures_is_refused(pipelines: Callable[[str], Path]) -> None:
    opened = open_with(pipelines("learned-variance"), "DDPMScheduler", weights=False)
    with pytest.raises(
        SearchError, match="DiTPipeline cannot use DDPMScheduler, which draws noise"
    ):
        search(opened, "full", Options(steps=3))
