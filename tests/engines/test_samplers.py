"""Samplers that draw noise, through the public call of diffusers' own pipelines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    FlowMatchLCMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionXLImg2ImgPipeline,
)

from engines.base import make_engine
from engines.errors import EngineError
from engines.parity import verify
from engines.runner import Runner
from exporter.bundle import Bundle
from exporter.exporting import export
from search.core.actions import Action
from search.core.errors import SearchError
from search.core.subnet import SubNet
from search.core.table import with_actions
from search.methods.options import Options
from search.methods.registry import search, search_keeps
from search.model.opening import open_pipeline
from search.model.pipeline import Pipeline
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
    with gated_by_hand(opened.denoiser, subnet, opened.family):
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
    asks_for_none = scheduler == "TCDScheduler"  # by the pipeline's eta, which is 0
    assert (bundle.sampler.noises == 1) == asks_for_none
    assert len(bundle.calls) < subnet.steps
    found = runner_of(bundle).run(PROMPT, seed=3).latents
    generator = torch.Generator()
    expected = latents_of_diffusers(opened, subnet, generator=generator.manual_seed(3))
    assert relative(found, expected) <= TOLERANCE
    other = latents_of_diffusers(opened, subnet, generator=generator.manual_seed(4))
    assert relative(found, other) > TOLERANCE


@pytest.mark.slow
def test_given_noise_is_followed_by_that_of_the_seed(
    pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    """Of several images at once."""
    opened = open_with(pipelines("three-levels"), "EulerAncestralDiscreteScheduler")
    subnet = search(opened, "full", Options(steps=3))
    bundle = export(pipelines("three-levels"), subnet, tmp_path / "bundle", batches=(2,))
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


@pytest.mark.slow
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
    parity, _ = verify(bundle, [make_engine("onnxruntime", "cpu")], path, prompt=PROMPT, seed=1)
    assert parity.failures == ()


def test_parity_is_verified_with_the_noise_of_the_seed(
    pipelines: Callable[[str], Path], make_bundle: MakeBundle
) -> None:
    opened = open_with(pipelines("lcm"), "LCMScheduler", weights=False)
    bundle = make_bundle("lcm", holding(search(opened, "full", Options(steps=6))))
    engine = make_engine("onnxruntime", "cpu")
    assert verify(bundle, [engine], pipelines("lcm"), prompt=PROMPT, seed=1)[0].failures == ()


def test_an_embedded_guidance_scale_can_be_changed(
    pipelines: Callable[[str], Path], make_bundle: MakeBundle
) -> None:
    opened = open_with(pipelines("lcm"), "LCMScheduler", weights=False)
    subnet = holding(search(opened, "full", Options(steps=6)))
    assert not subnet.binding.guided
    runner = runner_of(make_bundle("lcm", subnet))
    usual, less = (runner.run(PROMPT, guidance=scale).latents for scale in (7.5, 2.0))
    assert np.abs(usual - less).max() > 1e-3


def test_nothing_is_fitted_to_a_sampler_that_draws_noise(
    pipelines: Callable[[str], Path],
) -> None:
    opened = open_with(pipelines("three-levels"), "EulerAncestralDiscreteScheduler")
    asked = Options(steps=3, fit_sampler=True, pictures=2)
    for method, options in (
        ("full", asked),
        ("carve", replace(asked, fit_sampler=False)),
        ("dip-go", replace(asked, fit_sampler=False)),
    ):
        with pytest.raises(SearchError, match="the sampler draws 2 noises of its own, so there is"):
            search_keeps(opened, method, options, [1.0])


def test_noise_for_more_than_the_pictures_is_refused(pipelines: Callable[[str], Path]) -> None:
    opened = open_with(pipelines("learned-variance"), "DDPMScheduler", weights=False)
    with pytest.raises(
        SearchError, match="DiTPipeline cannot use DDPMScheduler, which would draw noise"
    ):
        search(opened, "full", Options(steps=3))


def part_of(opened: Pipeline, path: Path, out: Path, **options: Any) -> Bundle:
    """A bundle of every block on part of a grid."""
    return export(path, search(opened, "full", Options(**options)), out)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "scheduler", "grid"),
    [
        pytest.param(
            "three-levels",
            "DPMSolverMultistepScheduler",
            {"timesteps": [951, 700, 421, 20]},
            marks=pytest.mark.slow,
        ),
        ("three-levels", "EulerDiscreteScheduler", {"sigmas": [14.0, 3.5, 0.8, 0.1, 0.0]}),
        pytest.param("sd3", None, {"sigmas": [1.0, 0.7, 0.3]}, marks=pytest.mark.slow),
        pytest.param("lcm", "LCMScheduler", {"timesteps": [999, 759, 499]}, marks=pytest.mark.slow),
    ],
)
def test_a_custom_grid_gives_the_latents_of_diffusers(
    pipelines: Callable[[str], Path],
    tmp_path: Path,
    name: str,
    scheduler: str | None,
    grid: dict[str, list[float]],
) -> None:
    opened = open_pipeline(pipelines(name))
    opened.use_scheduler(scheduler or type(opened.pipe.scheduler).__name__)
    asked = {key: tuple(map(float, values)) for key, values in grid.items()}
    subnet = search(opened, "full", Options(**asked))
    bundle = export(pipelines(name), subnet, tmp_path / "bundle")
    found = runner_of(bundle).run(PROMPT, seed=3).latents
    generator = torch.Generator()
    expected = latents_of_diffusers(opened, subnet, generator=generator.manual_seed(3), **grid)
    assert len(bundle.calls) == len(subnet.timesteps)
    assert relative(found, expected) <= TOLERANCE
    even = search(opened, "full", Options(steps=len(subnet.timesteps)))
    plain = latents_of_diffusers(opened, even, generator=generator.manual_seed(3))
    assert relative(found, plain) > TOLERANCE


def test_a_grid_that_is_not_taken_is_refused_by_name(pipelines: Callable[[str], Path]) -> None:
    unet = open_with(pipelines("three-levels"), "DDIMScheduler", weights=False)
    with pytest.raises(SearchError, match="DDIMScheduler takes no custom timesteps"):
        search(unet, "full", Options(timesteps=(999.0, 5.0)))
    dit = open_pipeline(pipelines("learned-variance"), weights=False)
    with pytest.raises(SearchError, match="DiTPipeline takes no custom sigmas"):
        search(dit, "full", Options(sigmas=(9.0, 0.5)))


@pytest.mark.slow
def test_two_parts_hand_over_like_base_and_refiner_of_diffusers(
    pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    path = pipelines("sdxl")
    opened = open_pipeline(path)
    settings = {"steps": 10, "guidance": 5.0}
    cut = 6
    asked = {"guidance_scale": 5.0, "num_inference_steps": 10, "output_type": "latent"}
    share = 1 - cut / 10
    base_latents = opened.pipe(
        PROMPT,
        height=16,
        width=16,
        denoising_end=1 - share,
        generator=torch.Generator().manual_seed(3),
        **asked,
    ).images
    refiner = StableDiffusionXLImg2ImgPipeline(
        **opened.pipe.components, requires_aesthetics_score=False, add_watermarker=False
    )
    final = refiner(PROMPT, image=base_latents, denoising_start=1 - share, **asked).images

    base = part_of(opened, path, tmp_path / "base", end_step=cut, **settings)
    rest = part_of(opened, path, tmp_path / "rest", start_step=cut, **settings)
    assert [len(base.calls), len(rest.calls)] == [6, 4]
    left = runner_of(base).run(PROMPT, seed=3).latents
    assert relative(left, base_latents.numpy()) <= TOLERANCE
    found = runner_of(rest).run(PROMPT, latents=left).latents
    assert relative(found, final.numpy()) <= TOLERANCE
    with pytest.raises(
        EngineError, match="begins at step 6 from the latents that another run left"
    ):
        runner_of(rest).run(PROMPT)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scheduler", "steps"),
    [
        ("EulerAncestralDiscreteScheduler", 8),
        pytest.param("DPMSolverMultistepScheduler", 8, marks=pytest.mark.slow),
        pytest.param("DDIMScheduler", 8, marks=pytest.mark.slow),
    ],
)
def test_clean_latents_become_those_of_image_to_image(
    pipelines: Callable[[str], Path], tmp_path: Path, scheduler: str, steps: int
) -> None:
    path = pipelines("three-levels")
    opened = open_with(path, scheduler)
    clean = np.random.default_rng(3).standard_normal((1, 4, 12, 12)).astype(np.float32)
    pipe = StableDiffusionImg2ImgPipeline(**opened.pipe.components, requires_safety_checker=False)
    expected = pipe(
        PROMPT,
        image=torch.from_numpy(clean),
        strength=0.5,
        num_inference_steps=steps,
        generator=torch.Generator().manual_seed(5),
        output_type="latent",
    ).images.numpy()
    bundle = part_of(
        opened, path, tmp_path / "bundle", start_step=steps // 2, add_noise=True, steps=steps
    )
    runner = runner_of(bundle)
    found = runner.run(PROMPT, latents=clean, seed=5).latents
    assert relative(found, expected) <= TOLERANCE
    assert relative(runner.run(PROMPT, latents=clean, seed=6).latents, expected) > TOLERANCE
    parity, _ = verify(bundle, [make_engine("onnxruntime", "cpu")], path, prompt=PROMPT, seed=1)
    assert parity.failures == ()
    with pytest.raises(
        EngineError, match=r"begins at step 4 from clean latents, .* with --latents"
    ):
        runner.run(PROMPT)


@pytest.mark.slow
@pytest.mark.parametrize("start", [{"add_noise": True}, pytest.param({}, marks=pytest.mark.slow)])
def test_parity_of_a_part_is_verified_with_packed_latents(
    pipelines: Callable[[str], Path], tmp_path: Path, start: dict[str, Any]
) -> None:
    path = pipelines("flux-schnell")
    opened = open_pipeline(path, weights=False)
    size = {"height": 16, "width": 24}
    bundle = part_of(
        opened,
        path,
        tmp_path / "b",
        guidance=0.0,
        steps=5,
        start_step=2,
        end_step=4,
        **size,
        **start,
    )
    assert len(bundle.calls) == 2
    parity, _ = verify(bundle, [make_engine("onnxruntime", "cpu")], path, prompt=PROMPT, seed=1)
    assert parity.failures == ()


def test_nothing_is_fitted_to_given_latents(pipelines: Callable[[str], Path]) -> None:
    opened = open_pipeline(pipelines("three-levels"))
    options = Options(steps=4, start_step=2, fit_sampler=True)
    with pytest.raises(SearchError, match="begins from given latents, so there are no runs"):
        search_keeps(opened, "full", options, [1.0])
    with pytest.raises(SearchError, match="fewer-steps chooses its own timestep grids"):
        search(opened, "fewer-steps", replace(options, fit_sampler=False))
    with pytest.raises(SearchError, match="steps 2 to 9 were requested, but the sampler has 4"):
        search(opened, "full", replace(options, end_step=9))
