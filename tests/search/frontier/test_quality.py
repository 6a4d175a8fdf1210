"""How candidates are evaluated."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from search.core.errors import SearchError
from search.core.subnet import SubNet
from search.core.timestep_grid import TimestepGrid
from search.frontier.distance import Baseline, Statistic
from search.frontier.quality import (
    HeldOut,
    as_bytes,
    as_texts,
    fine_steps,
    noise_seed,
    read_features,
    sample_held_out,
)
from search.frontier.settings import FrontierSettings
from search.methods.options import Options
from search.methods.schedules import deepcache
from search.methods.whole import full
from search.model.family import Request
from search.model.opening import open_pipeline
from search.model.pipeline import Pipeline
from search.model.reference import sample

STEPS = 4
COUNT = 18
SETTINGS = FrontierSettings(steps=STEPS, guidance=3.0, keeps=(0.5,), count=COUNT, fine_steps=8)
JUDGE = Path(__file__).parents[3] / "examples" / "shapes" / "judge.onnx"
PROMPTS = ("a red circle", "a blue square", "a green cross")


def silent(text: str, share: float | None = None) -> None:
    pass


@pytest.fixture(scope="module")
def pipeline(pipelines: Callable[[str], Path]) -> Pipeline:
    return open_pipeline(pipelines("three-levels"))


@pytest.fixture(scope="module")
def whole(pipeline: Pipeline) -> SubNet:
    return full(pipeline, Options(steps=STEPS, guidance=3.0))


@pytest.fixture(scope="module")
def held_out(pipeline: Pipeline, whole: SubNet) -> HeldOut:
    return sample_held_out(pipeline, whole, PROMPTS, SETTINGS, silent)


def test_as_many_pictures_as_asked_each_from_its_own_noise(held_out: HeldOut) -> None:
    noise = torch.cat([runs.noise for runs in held_out.runs])
    assert len(noise) == len(held_out.pictures) == COUNT
    assert len({tuple(row.flatten().tolist()) for row in noise}) == COUNT
    prompts = [text for runs in held_out.runs for text in runs.predictor.prompts]
    assert prompts == [PROMPTS[i % 3] for i in range(COUNT)]


def test_the_noise_is_none_that_a_search_draws(held_out: HeldOut) -> None:
    """torch takes a seed's lowest 32 bits, so that 2 ** 40 would be the seed 0."""
    drawn = held_out.runs[0].noise
    for seed in range(64):
        generator = torch.Generator().manual_seed(seed)
        assert not torch.equal(torch.randn(drawn.shape, generator=generator), drawn)
    seeds = {noise_seed(seed, part, at) for seed in range(9) for part in (1, 2) for at in (0, 16)}
    assert len(seeds) == 36
    assert max(seeds) < 2**32


def test_the_full_sampler_is_perfect(held_out: HeldOut, whole: SubNet) -> None:
    quality = held_out.examine_full()
    assert quality.error == quality.distances[Baseline.FULL].largest == 0
    assert quality.distances[Baseline.FINE].value(Statistic.MEAN) > 0
    assert quality.psnr == pytest.approx(100)
    assert quality.ssim == pytest.approx(1)
    again = held_out.examine(whole, held_out.pipeline.sampler(TimestepGrid(STEPS)))
    assert again.error < 1e-5


def test_quality_is_that_of_diffusers_own_pictures(
    pipeline: Pipeline, whole: SubNet, held_out: HeldOut
) -> None:
    """A gated U-Net, both runs of pictures, against the gated reference."""
    subnet = deepcache(whole, interval=2, branch=0)
    quality = held_out.examine(subnet, pipeline.sampler(TimestepGrid(STEPS)))
    errors, psnr = [], []
    for runs in held_out.runs:
        request = Request(runs.predictor.prompts, STEPS, 3.0, latents=runs.noise)
        exact, gated = sample(pipeline, request), sample(pipeline, request, subnet)
        difference = (gated.latents[-1] - exact.latents[-1]).flatten(1).norm(dim=1)
        errors += (difference / exact.latents[-1].flatten(1).norm(dim=1)).tolist()
        assert exact.images is not None
        squared = ((gated.images - exact.images) ** 2).mean((1, 2, 3))
        psnr += (-10 * np.log10(squared)).tolist()
    assert quality.error == pytest.approx(np.mean(errors), rel=1e-3)
    found = quality.distances[Baseline.FULL]
    assert found.errors == pytest.approx(errors, rel=1e-3)
    assert found.largest == pytest.approx(np.max(errors), rel=1e-3)
    assert found.value(Statistic.MEDIAN) == pytest.approx(np.median(errors), rel=1e-3)
    assert quality.psnr == pytest.approx(np.mean(psnr), abs=0.05)
    assert 0 < quality.ssim < 1


def test_the_fine_reference_is_the_same_sampler_with_more_steps_from_the_same_noise(
    pipeline: Pipeline, held_out: HeldOut
) -> None:
    """Against diffusers' own pipeline."""
    found = held_out.examine_full().distances[Baseline.FINE].errors
    errors = []
    for runs in held_out.runs:
        request = Request(runs.predictor.prompts, STEPS, 3.0, latents=runs.noise)
        full, fine = (
            sample(pipeline, dataclasses.replace(request, steps=steps)).latents[-1]
            for steps in (STEPS, 8)
        )
        difference = (full - fine).flatten(1).norm(dim=1)
        errors += (difference / fine.flatten(1).norm(dim=1)).tolist()
    assert found == pytest.approx(errors, rel=1e-3)


def test_the_fine_reference_has_ten_times_the_steps_but_no_more_than_timesteps(
    pipeline: Pipeline, whole: SubNet
) -> None:
    settings = dataclasses.replace(SETTINGS, fine_steps=None)
    assert fine_steps(pipeline, whole, settings) == 10 * STEPS
    many = full(pipeline, Options(steps=250, guidance=3.0))
    assert fine_steps(pipeline, many, settings) == 1000


def test_pictures_become_bytes_as_diffusers_makes_them() -> None:
    pictures = torch.tensor([0.0, 0.5, 1.0]).reshape(1, 3, 1, 1)
    assert as_bytes(pictures).tolist() == [[[[0, 128, 255]]]]


def test_classes_are_spelled_for_the_judge(pipelines: Callable[[str], Path]) -> None:
    opened = open_pipeline(pipelines("shapes-dit"), weights=False)
    assert as_texts(opened, ("0", "23", "red cross")) == ("red circle", "cyan cross", "red cross")


def test_texts_stay_as_they_are(pipeline: Pipeline) -> None:
    assert as_texts(pipeline, PROMPTS) == PROMPTS


def test_a_judge_of_another_size_is_refused(pipeline: Pipeline, whole: SubNet) -> None:
    settings = dataclasses.replace(SETTINGS, judge=JUDGE, count=2)
    with pytest.raises(SearchError, match="the judge cannot read pictures of 24 x 24"):
        sample_held_out(pipeline, whole, PROMPTS, settings, silent)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.zeros((5, 3)), r"has the shape \[5, 3\], but the judge makes 64 features"),
        (np.zeros(64), r"has the shape \[64\]"),
        (np.zeros((1, 64)), "2 rows or more"),
        (np.array([{}]), "is not a .npy file"),
    ],
)
def test_features_that_are_not_the_judges_are_refused(
    tmp_path: Path, features: np.ndarray, message: str
) -> None:
    np.save(tmp_path / "f.npy", features, allow_pickle=True)
    with pytest.raises(SearchError, match=message):
        read_features(tmp_path / "f.npy", 64)


def test_features_are_read(tmp_path: Path) -> None:
    np.save(tmp_path / "f.npy", np.ones((4, 64)))
    assert read_features(tmp_path / "f.npy", 64).dtype == np.float32
