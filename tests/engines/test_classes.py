"""Classes of pipelines that nothing here was written for, against diffusers' own calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from benchmarks.families import image, video
from benchmarks.families.toy import Toy
from engines.base import make_engine
from engines.runner import Runner
from exporter.errors import ExportError
from exporter.exporting import export
from search.core.actions import Action
from search.core.granularity import Granularity
from search.core.liveness import unroll
from search.core.subnet import SubNet
from search.core.table import with_rows
from search.methods.options import Options
from search.methods.registry import search
from search.model.entry import FRAMES
from search.model.families.text_to_image import call_parameters, scale_argument
from search.model.family import Request
from search.model.opening import open_pipeline
from search.model.pipeline import Pipeline
from search.model.reference import sample
from tests.hand_gating import gated_by_hand
from tests.mixes import random_mix

TOYS = {toy.cls: toy for toy in (*image.TOYS, *video.TOYS)}
QUICK = ("WanPipeline",)
CLASSES = (
    "Flux2Pipeline",
    "Flux2KleinPipeline",
    "QwenImagePipeline",
    "ChromaPipeline",
    "SanaPipeline",
    "WanPipeline",
    "LTXPipeline",
    "HunyuanVideoPipeline",
    "Krea2Pipeline",
    "CogView3PlusPipeline",
    "SanaVideoPipeline",
    "CogView4Pipeline",
    "Lumina2Pipeline",
    "Kandinsky5T2IPipeline",
    "Kandinsky5T2VPipeline",
    "BriaFiboPipeline",
    "ErnieImagePipeline",
    "HunyuanVideo15Pipeline",
    "LongCatImagePipeline",
    "MochiPipeline",
    "NucleusMoEImagePipeline",
    "ZImagePipeline",
)
"""Those of 2025 and 2026 that compile."""
BY_BRANCHES = ("QwenImagePipeline", "WanPipeline", "HunyuanVideoPipeline")
OTHERS = (
    "LDMTextToImagePipeline",
    "IFPipeline",
    "TextToVideoSDPipeline",
    "StableDiffusion3PAGPipeline",
    "EasyAnimatePipeline",
    "LattePipeline",
    "KolorsPipeline",
)
"""One for each thing that older pipelines do in a way of their own."""
UNTOLD = ("DDPMPipeline", "DDIMPipeline")
"""Pipelines that are not told what to show."""
STEPS = 4


def each_class(*names: str) -> list[Any]:
    """All of them; those that are not quick are slow."""
    return [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in names]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Saves the toy of a class once."""
    folder = tmp_path_factory.mktemp("toys")

    def save(name: str) -> Path:
        path = folder / name
        if not path.exists():
            TOYS[name].build().save_pretrained(path)
        return path

    return save


def opened(path: Path, toy: Toy, *, weights: bool) -> Pipeline:
    """With the further arguments of its call."""
    found = open_pipeline(path, weights=weights)
    found.use_call({k: v for k, v in toy.call.items() if k not in ("height", "width", *FRAMES)})
    found.use_scheduler(None, toy.scheduler)
    return found


def plain_pipeline(path: Path, toy: Toy) -> Any:
    """As a user of diffusers opens it, with the scheduler's settings of the toy."""
    pipe = DiffusionPipeline.from_pretrained(path)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, **toy.scheduler)
    return pipe


def options(toy: Toy, **settings: Any) -> Options:
    size = {name: toy.call.get(name) for name in ("height", "width")}
    frames = next((toy.call[name] for name in FRAMES if name in toy.call), None)
    return Options(steps=STEPS, guidance=toy.guidance, frames=frames, **size, **settings)


def own_call(pipe: Any, toy: Toy, prompt: str, negative: str, **settings: Any) -> Any:
    """diffusers' own call; nothing of ours in between."""
    wanted = {
        "prompt": prompt,
        **toy.call,
        scale_argument(pipe): toy.guidance,
        "num_inference_steps": STEPS,
        "generator": torch.Generator().manual_seed(5),
        "clean_caption": False,
        "use_resolution_binning": False,
        "return_dict": False,
        **settings,
    }
    # EasyAnimate cannot do without one.
    if negative or scale_argument(pipe) == "true_cfg_scale" or "EasyAnimate" in toy.cls:
        wanted["negative_prompt"] = negative
    takes = call_parameters(pipe)
    return pipe(**{name: value for name, value in wanted.items() if name in takes})[0]


def run(subnet: SubNet, path: Path, out: Path) -> Runner:
    return Runner(export(path, subnet, out), make_engine("onnxruntime", "cpu"))


def equals_picture_for_picture(runner: Runner, pipe: Any, toy: Toy) -> None:
    """For two prompts, of which one has a negative prompt where the bundle takes one."""
    pictures = []
    for prompt, negative in (("a red circle on a blue field", ""), ("dog", "blurry, low quality")):
        away = negative if runner.bundle.takes_negative else ""
        expected = np.asarray(own_call(pipe, toy, prompt, away, output_type="np"))
        found = runner.run(prompt, seed=5, negative=away).images / 255
        assert np.abs(found - expected).max() <= 1 / 255
        pictures.append(found)
    assert np.abs(pictures[0] - pictures[1]).max() > 1 / 255, "the prompt counts"


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_full_equals_diffusers_picture_for_picture(saved: Any, tmp_path: Path, name: str) -> None:
    toy, path = TOYS[name], saved(name)
    subnet = search(opened(path, toy, weights=False), "full", options(toy))
    equals_picture_for_picture(
        run(subnet, path, tmp_path / "bundle"), plain_pipeline(path, toy), toy
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", UNTOLD)
def test_a_pipeline_without_a_prompt_makes_the_picture_of_a_seed(
    saved: Any, tmp_path: Path, name: str
) -> None:
    toy, path = TOYS[name], saved(name)
    subnet = search(opened(path, toy, weights=False), "full", options(toy))
    runner = run(subnet, path, tmp_path / "bundle")
    expected = own_call(plain_pipeline(path, toy), toy, "", "", output_type="np")
    found = runner.run("", seed=5).images / 255
    assert np.abs(found - expected).max() <= 1 / 255
    assert runner.bundle.require_prompt(prompt=None, label=None) == ""
    with pytest.raises(ExportError, match="takes no prompt"):
        runner.bundle.require_prompt(prompt="a cat", label=None)


@pytest.mark.parametrize(
    ("name", "granularity"),
    [
        *(pytest.param(name, Granularity.BRANCH, marks=pytest.mark.slow) for name in BY_BRANCHES),
        *(
            pytest.param(name, Granularity.LAYER, marks=() if name in QUICK else pytest.mark.slow)
            for name in CLASSES
        ),
    ],
)
def test_random_mixes_equal_diffusers_gated_by_hand(
    saved: Any, tmp_path: Path, name: str, granularity: Granularity
) -> None:
    toy, path = TOYS[name], saved(name)
    mixed = random_mix(
        search(opened(path, toy, weights=False), "full", options(toy, granularity=granularity)), 3
    )
    assert len(set().union(*mixed.actions)) > 1
    runner = run(mixed, path, tmp_path / "bundle")
    pipeline = opened(path, toy, weights=True)
    with gated_by_hand(pipeline.denoiser, mixed, pipeline.family):
        expected = own_call(pipeline.pipe, toy, "a red circle", "", output_type="latent").numpy()
        found = runner.run("a red circle", seed=5).latents
        if found.shape == expected.shape:
            assert np.linalg.norm(found - expected) / np.linalg.norm(expected) <= 1e-3
        equals_picture_for_picture(runner, pipeline.pipe, toy)


@pytest.mark.parametrize("name", each_class("WanPipeline", "ChromaPipeline", "Flux2KleinPipeline"))
def test_the_unconditional_stream_can_be_held(saved: Any, tmp_path: Path, name: str) -> None:
    toy, path = TOYS[name], saved(name)
    full = search(opened(path, toy, weights=False), "full", options(toy))
    column = full.topology.blocks.index("uncond")
    rows = [list(row) for row in full.actions]
    for row in rows[1::2]:
        row[column] = Action.REUSE
    held = with_rows(full, rows)
    assert sum(unroll(held).macs) == pytest.approx(0.75 * sum(unroll(full).macs), rel=0.02)
    runner = run(held, path, tmp_path / "bundle")
    pipeline = opened(path, toy, weights=True)
    kept: list[Any] = []
    calls = 0

    def hold(module: Any, args: Any, output: Any) -> Any:
        nonlocal calls
        del module, args
        step, stream = divmod(calls, 2)
        calls += 1
        if stream == 1 and step % 2 == 0:
            kept[:] = [output]
        return kept[0] if stream == 1 else output

    handle = pipeline.denoiser.register_forward_hook(hold)
    expected = own_call(pipeline.pipe, toy, "a red circle", "", output_type="np")
    handle.remove()
    found = runner.run("a red circle", seed=5).images / 255
    assert np.abs(found - np.asarray(expected)).max() <= 1 / 255


@pytest.mark.parametrize("name", each_class("WanPipeline"))
def test_the_reference_obeys_a_table_of_two_streams(saved: Any, name: str) -> None:
    toy = TOYS[name]
    pipeline = opened(saved(name), toy, weights=True)
    mixed = random_mix(search(pipeline, "full", options(toy)), 1)
    noise = torch.randn(1, *mixed.binding.latent_shape, generator=torch.Generator().manual_seed(0))
    ask = Request(("a cat",), STEPS, toy.guidance, latents=noise).sized(mixed.binding.picture)
    with gated_by_hand(pipeline.denoiser, mixed, pipeline.family):
        expected = sample(pipeline, ask)
    found = sample(pipeline, ask, mixed)
    torch.testing.assert_close(found.latents[-1], expected.latents[-1], rtol=1e-4, atol=1e-5)
