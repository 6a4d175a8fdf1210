"""A bundle whose rows depend on the guidance scale, against a loop by hand over diffusers' modules."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from engines.base import make_engine
from engines.errors import EngineError
from engines.parity import verify
from engines.runner import Runner
from exporter.bundle import Bundle
from exporter.scheduler import reduced_sampler, write_scheduler
from search.applied import apply
from search.core.errors import SearchError
from search.core.sampler import FittedSampler, SamplerTable, ScaleRange
from search.core.subnet import SubNet
from search.methods.options import Options
from search.methods.whole import full
from search.model.bound_scheduler import fitted_scheduler
from search.model.fitted_scheduler import FittedScheduler
from search.model.opening import open_pipeline

pytestmark = pytest.mark.slow
NAME = "three-levels"
PROMPT = "a small red circle"
SCALES = ScaleRange(2.0, 6.0, 3.0)
STEPS = 4


def ranged(folder: Path) -> SubNet:
    """The scheduler's own rows at guidance 3, and others that no scheduler has at other scales."""
    opened = open_pipeline(folder, weights=False)
    whole = full(opened, Options(steps=STEPS, guidance=SCALES.guidance))
    table, random = opened.sampler_of(whole), np.random.default_rng(0)
    powers = []
    for size in (0.2, 0.1):
        inputs = np.tril(size * random.normal(size=table.inputs.shape))
        final = size * random.normal(size=table.final.shape)
        inputs[:, 0] = final[0] = 0
        powers.append(SamplerTable(inputs, final))
    terms = [table, *powers]
    return replace(whole, fitted=FittedSampler.of_terms(whole.timesteps, terms, SCALES))


@pytest.fixture(scope="module")
def subnet(pipelines: Callable[[str], Path]) -> SubNet:
    return ranged(pipelines(NAME))


@pytest.fixture(scope="module")
def bundle(make_bundle: Callable[[str, SubNet], Bundle], subnet: SubNet) -> Bundle:
    return make_bundle(NAME, subnet)


def rows_at(file: Path, scale: float) -> np.ndarray:
    """All rows, evaluated with numpy from what is in a SubNet's file."""
    data = json.loads(file.read_text())["fitted"]
    by = data["by_scale"]
    terms = []
    for each in (data, *by["powers"]):
        rows = np.zeros((STEPS + 1, STEPS + 1))
        for row, values in zip(rows, (*each["inputs"], each["final"]), strict=True):
            row[: len(values)] = values
        terms.append(rows)
    place = (scale - by["guidance"]) / (by["high"] - by["low"])
    found: np.ndarray = np.polynomial.polynomial.polyval(place, np.stack(terms))
    return found


def by_hand(folder: Path, file: Path, scale: float, noise: torch.Tensor) -> torch.Tensor:
    """Final latents of a loop over the U-Net of diffusers."""
    pipe: Any = DiffusionPipeline.from_pretrained(folder)
    shown, hidden = pipe.encode_prompt(PROMPT, "cpu", 1, True, "")
    rows, values = rows_at(file, scale), [noise]
    times = json.loads(file.read_text())["fitted"]["timesteps"]
    with torch.no_grad():
        for row, time in zip(rows, times, strict=False):
            latents = sum(float(c) * v for c, v in zip(row, values, strict=False))
            without, with_prompt = (
                pipe.unet(latents, time, encoder_hidden_states=each).sample
                for each in (hidden, shown)
            )
            values.append(without + scale * (with_prompt - without))
    return sum(float(c) * v for c, v in zip(rows[-1], values, strict=True))  # type: ignore[return-value]


def test_one_runner_takes_every_scale_of_the_range(
    pipelines: Callable[[str], Path], bundle: Bundle
) -> None:
    runner = Runner(bundle, make_engine("onnxruntime", "cpu"))
    noise = np.random.default_rng(3).standard_normal(bundle.latent_shape).astype(np.float32)
    made: dict[float, np.ndarray] = {}
    for scale in (3.0, 5.0, 2.0, 3.0):
        asked = None if scale == 3.0 else scale
        found = runner.run(PROMPT, latents=noise, guidance=asked).latents
        expected = by_hand(
            pipelines(NAME), bundle.file(bundle.subnet_file), scale, torch.from_numpy(noise)
        )
        assert np.linalg.norm(found - expected.numpy()) <= 1e-3 * expected.norm()
        assert np.array_equal(made.setdefault(scale, found), found)
    assert np.linalg.norm(made[5.0] - made[2.0]) > 0.05 * np.linalg.norm(made[2.0])
    assert runner.preview(STEPS - 1) is None or bundle.preview is not None


def test_other_scales_are_refused_and_the_range_is_named(bundle: Bundle) -> None:
    runner = Runner(bundle, make_engine("onnxruntime", "cpu"))
    for scale in (1.5, 6.5):
        with pytest.raises(EngineError, match=r"was fitted for 2 to 6; give a scale in that range"):
            runner.run(PROMPT, guidance=scale)


def test_it_is_verified_at_any_scale_of_the_range(
    pipelines: Callable[[str], Path], bundle: Bundle
) -> None:
    for scale in (None, 5.0):
        parity, _ = verify(
            bundle, [make_engine("onnxruntime", "cpu")], pipelines(NAME),
            prompt=PROMPT, guidance=scale, seed=3,
        )  # fmt: skip
        assert parity.passed
        assert parity.guidance == (scale or 3.0)


def test_diffusers_gets_the_rows_of_the_scale_that_it_is_told(
    pipelines: Callable[[str], Path], subnet: SubNet, tmp_path: Path
) -> None:
    assert subnet.fitted is not None
    subnet.save(tmp_path / "subnet.json")
    rows = reduced_sampler(subnet, subnet.fitted.table)
    write_scheduler(fitted_scheduler(subnet, rows), tmp_path)
    pipe: Any = DiffusionPipeline.from_pretrained(pipelines(NAME))
    pipe.set_progress_bar_config(disable=True)
    noise = torch.randn(1, *subnet.binding.latent_shape, generator=torch.Generator().manual_seed(1))

    def pictures(scale: float) -> Any:
        options = {"num_inference_steps": STEPS, "guidance_scale": scale, "output_type": "latent"}
        return pipe(PROMPT, latents=noise, **options).images

    for told, scale in ((None, 3.0), (5.0, 5.0)):
        given = {} if told is None else {"guidance_scale": told}
        pipe.scheduler = FittedScheduler.from_pretrained(tmp_path, **given)
        expected = by_hand(pipelines(NAME), tmp_path / "subnet.json", scale, noise)
        assert (pictures(scale) - expected).norm() <= 1e-4 * expected.norm()
    with pytest.raises(ValueError, match="are for 2 to 6; give guidance_scale in that range"):
        FittedScheduler.from_pretrained(tmp_path, guidance_scale=7.0)

    pipe.scheduler = DiffusionPipeline.from_pretrained(pipelines(NAME)).scheduler
    with apply(pipe, subnet):
        for scale in (5.0, 2.5):
            expected = by_hand(pipelines(NAME), tmp_path / "subnet.json", scale, noise)
            assert (pictures(scale) - expected).norm() <= 1e-4 * expected.norm()
        with pytest.raises(SearchError, match="was fitted for 2 to 6; give a scale in that range"):
            pictures(7.5)
