"""Every family, from its text encoders to its pictures, against diffusers' own pipeline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from _pytest.mark import ParameterSet

from engines.base import make_engine
from engines.errors import EngineError
from engines.parity import verify
from engines.runner import Runner
from exporter.bundle import Bundle
from exporter.exporting import export
from search.core.subnet import Granularity, SubNet
from search.methods.options import Options
from search.methods.registry import search
from search.model.family import Request
from search.model.opening import open_pipeline
from search.model.reference import sample
from tests.hand_gating import gated_by_hand
from tests.mixes import random_mix

MakeBundle = Callable[[str, SubNet], Bundle]
TOLERANCE = 1e-4
PIXEL = 1.5 / 255
PROMPT = " A small Red circle, left on a grey field "
SIZE = (16, 24)


@dataclass(frozen=True)
class Case:
    """How people call a pipeline.

    Attributes:
        guidance: scale.
        negative: prompt, for those that take one.
        arguments: of the public call beside the usual ones.
    """

    guidance: float
    negative: str = ""
    arguments: tuple[tuple[str, Any], ...] = ()


PIXART = (("clean_caption", False), ("use_resolution_binning", False))
CASES = {
    "sdxl": Case(5.0, "Blue"),
    "sd3": Case(7.0, "Blue"),
    "flux-dev": Case(3.5),
    "flux-schnell": Case(0.0),
    "aura-flow": Case(3.5, "Blue"),
    "pixart-sigma": Case(4.5, "Blue", PIXART),
    "pixart-alpha": Case(4.5, "Blue", PIXART),
}


def each_case(
    *names: str, quick: tuple[str, ...], and_also: tuple[object, ...] = ()
) -> list[ParameterSet]:
    """All cases; those that are not `quick` are slow."""
    return [
        pytest.param(name, *and_also, marks=[] if name in quick else [pytest.mark.slow])
        for name in names
    ]


def options(name: str, **settings: Any) -> Options:
    size = {"height": SIZE[0], "width": SIZE[1]}
    return Options(guidance=CASES[name].guidance, **{"steps": 4, **size, **settings})


def pictures_of_diffusers(
    pipe: Any,
    name: str,
    negative: str,
    *,
    size: tuple[int, int] = SIZE,
    images: int = 1,
    output: str = "np",
    guidance: float | None = None,
) -> np.ndarray:
    """Straight through diffusers' public call, seed included; nothing of ours in between."""
    case = CASES[name]
    extra = {"negative_prompt": negative} if negative else {}
    pictures = pipe(
        prompt=PROMPT,
        guidance_scale=case.guidance if guidance is None else guidance,
        num_inference_steps=4,
        num_images_per_prompt=images,
        height=size[0],
        width=size[1],
        generator=torch.Generator().manual_seed(5),
        output_type=output,
        **extra,
        **dict(case.arguments),
    ).images
    return np.asarray(pictures)


@pytest.mark.slow
@pytest.mark.parametrize("name", each_case(*CASES, quick=("sdxl", "sd3", "pixart-sigma")))
def test_full_equals_diffusers_picture_for_picture(
    pipelines: Callable[[str], Path], make_bundle: MakeBundle, name: str
) -> None:
    opened = open_pipeline(pipelines(name), weights=False)
    bundle = make_bundle(name, search(opened, "full", options(name)))
    runner = Runner(bundle, make_engine("onnxruntime", "cpu"))
    pipe = open_pipeline(pipelines(name)).pipe
    plain = runner.run(PROMPT, seed=5).images / 255
    assert np.abs(plain - pictures_of_diffusers(pipe, name, "")).max() <= PIXEL
    assert plain.shape == (1, *SIZE, 3)
    other = runner.run("green", seed=5).images / 255
    assert np.abs(plain - other).max() > PIXEL, "the prompt counts"
    if negative := CASES[name].negative:
        away = runner.run(PROMPT, seed=5, negative=negative).images / 255
        expected = pictures_of_diffusers(pipe, name, negative)
        assert np.abs(away - expected).max() <= PIXEL
        assert np.abs(away - plain).max() > PIXEL, "the negative prompt counts"


@pytest.mark.parametrize(
    ("name", "granularity"),
    [
        *each_case(*CASES, quick=("sdxl",), and_also=(Granularity.BRANCH,)),
        *each_case(*CASES, quick=("flux-dev",), and_also=(Granularity.LAYER,)),
    ],
)
def test_random_mixes_equal_diffusers_gated_by_hand(
    pipelines: Callable[[str], Path],
    make_bundle: MakeBundle,
    name: str,
    granularity: Granularity,
) -> None:
    opened = open_pipeline(pipelines(name))
    whole = search(opened, "full", options(name, granularity=granularity))
    subnet = random_mix(whole, seed=5)
    bundle = make_bundle(name, subnet)
    noise = np.random.default_rng(3).standard_normal(bundle.latent_shape).astype(np.float32)
    found = Runner(bundle, make_engine("onnxruntime", "cpu")).run(PROMPT, latents=noise)
    ask = Request((PROMPT,), 4, subnet.guidance, latents=torch.from_numpy(noise)).sized(SIZE)
    with gated_by_hand(opened.denoiser, subnet, opened.family):
        expected = sample(opened, ask).latents[-1].numpy()
    assert relative(found.latents, expected) <= TOLERANCE
    assert relative(found.latents, sample(opened, ask).latents[-1].numpy()) > TOLERANCE


@pytest.mark.parametrize("name", each_case(*CASES, quick=("sdxl",)))
def test_parity_is_verified(
    pipelines: Callable[[str], Path], make_bundle: MakeBundle, name: str
) -> None:
    opened = open_pipeline(pipelines(name), weights=False)
    subnet = random_mix(search(opened, "full", options(name)), seed=5)
    bundle, engine = make_bundle(name, subnet), make_engine("onnxruntime", "cpu")
    parity, _ = verify(bundle, [engine], pipelines(name), prompt=PROMPT, seed=1)
    assert parity.failures == ()


@pytest.mark.slow
def test_an_embedded_guidance_scale_can_be_changed(
    pipelines: Callable[[str], Path], make_bundle: MakeBundle
) -> None:
    opened = open_pipeline(pipelines("flux-dev"), weights=False)
    bundle = make_bundle("flux-dev", search(opened, "full", options("flux-dev")))
    runner = Runner(bundle, make_engine("onnxruntime", "cpu"))
    pipe = open_pipeline(pipelines("flux-dev")).pipe
    less = pictures_of_diffusers(pipe, "flux-dev", "", guidance=2.0)
    assert np.abs(runner.run(PROMPT, seed=5, guidance=2.0).images / 255 - less).max() <= PIXEL
    with pytest.raises(EngineError, match="takes no negative prompt"):
        runner.run(PROMPT, negative="Blue")
    runner.run(PROMPT, guidance=3.5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["flux-schnell", "sd3"])
def test_two_images_without_guidance_equal_diffusers(
    pipelines: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    opened = open_pipeline(pipelines(name))
    subnet = search(opened, "full", replace(options(name), guidance=1.0))
    assert not subnet.binding.guided
    bundle = export(pipelines(name), subnet, tmp_path / "bundle", batches=(2,))
    found = Runner(bundle, make_engine("onnxruntime", "cpu")).run(PROMPT, seed=5).images / 255
    expected = opened.pipe(
        prompt=PROMPT,
        guidance_scale=1.0,
        num_inference_steps=4,
        num_images_per_prompt=2,
        height=SIZE[0],
        width=SIZE[1],
        generator=torch.Generator().manual_seed(5),
        output_type="np",
    ).images
    assert np.abs(found - expected).max() <= PIXEL
    assert np.abs(found[0] - found[1]).max() > PIXEL


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", each_case("sdxl", "flux-dev", "sd3", "pixart-sigma", quick=("pixart-sigma",))
)
def test_every_variant_of_a_bundle_equals_diffusers_gated_by_hand(
    pipelines: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    """Sizes count in conditions (SDXL), positions (all transformers) and timesteps (FLUX dev)."""
    opened = open_pipeline(pipelines(name))
    subnet = random_mix(search(opened, "full", options(name)), seed=5)
    bundle = export(pipelines(name), subnet, tmp_path / "b", sizes=(SIZE, (32, 16)), batches=(1, 2))
    engine = make_engine("onnxruntime", "cpu")
    negative = CASES[name].negative
    for each in bundle.variants():
        size, images = (each.shape.height, each.shape.width), each.shape.images
        found = Runner(each, engine).run(PROMPT, seed=5, negative=negative)

        of_diffusers = partial(
            pictures_of_diffusers, opened.pipe, name, negative, size=size, images=images
        )
        with gated_by_hand(opened.denoiser, each.subnet, opened.family):
            expected = of_diffusers(output="latent")
        with gated_by_hand(opened.denoiser, each.subnet, opened.family):
            pictures = of_diffusers()
        assert relative(found.latents, expected) <= TOLERANCE, each.shape
        assert relative(found.latents, of_diffusers(output="latent")) > TOLERANCE, "the gates count"
        assert found.images.shape == (images, *size, 3)
        assert np.abs(found.images / 255 - pictures).max() <= PIXEL, each.shape


def test_a_prompt_is_encoded_once_even_where_an_empty_negative_one_is_another_thing(
    pipelines: Callable[[str], Path], make_bundle: MakeBundle
) -> None:
    opened = open_pipeline(pipelines("sdxl"), weights=False)
    bundle = make_bundle("sdxl", search(opened, "full", options("sdxl")))
    graph = onnx.load(bundle.file("condition.onnx"), load_external_data=False).graph
    uses = Counter(name for node in graph.node for name in node.input if "q_proj.weight" in name)
    assert set(uses.values()) == {2}, "prompt and negative"


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
