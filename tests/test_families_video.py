"""Toys of videos, and of pipelines that begin from pictures."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image, ImageOps
from safetensors.torch import load_file

from benchmarks.families import pictured, video
from benchmarks.families.lora import write_lora
from benchmarks.families.toy import Toy

ALL = (*video.TOYS, *pictured.TOYS)
FAST = ("wan", "inpaint_channels", "control_xl")
PROMPT = "a red circle on a blue field"
OTHER = "two green squares, painted at dusk"


def each(toy: Toy) -> Any:
    name = toy.build.__name__
    marks = () if name in FAST else (pytest.mark.slow,)
    return pytest.param(toy, id=f"{toy.cls}-{name}", marks=marks)


def loaded(toy: Toy, folder: Path) -> Any:
    toy.build().save_pretrained(folder)
    pipe = DiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def made(
    pipe: Any, toy: Toy, *, prompt: str = PROMPT, output: str = "latent", **changed: Any
) -> Any:
    takes = inspect.signature(type(pipe).__call__).parameters
    asked = {"prompt": prompt, "num_inference_steps": 3, "output_type": output}
    scale = "true_cfg_scale" if "true_cfg_scale" in takes else "guidance_scale"
    asked |= {scale: toy.guidance, "negative_prompt": "blurry"}
    generator = torch.Generator().manual_seed(0)
    call = {k: v for k, v in {**asked, **toy.call, **changed}.items() if k in takes}
    return pipe(**call, generator=generator)[0]


def mirrored(given: Any) -> Any:
    if isinstance(given, Image.Image):
        return ImageOps.mirror(given.rotate(90))
    return [mirrored(one) for one in given]


@pytest.mark.parametrize("toy", [each(toy) for toy in ALL])
def test_all_that_a_toy_is_given_matters(toy: Toy, tmp_path: Path) -> None:
    pipe = loaded(toy, tmp_path)
    assert type(pipe).__name__ == toy.cls
    assert sum(f.stat().st_size for f in tmp_path.rglob("*") if f.is_file()) < 6e6
    first = made(pipe, toy)
    assert torch.isfinite(first).all()
    assert torch.equal(first, made(pipe, toy))
    pictures = {k: mirrored(v) for k, v in toy.call.items() if isinstance(v, (Image.Image, list))}
    for changed in ({"prompt": OTHER}, *({name: other} for name, other in pictures.items())):
        difference = (made(pipe, toy, **changed) - first).norm() / first.norm()
        assert 0.01 < difference < 2, changed.keys()
    shown = np.asarray(made(pipe, toy, output="np"))
    assert np.isfinite(shown).all()
    assert shown.std() > 0.02


def test_a_toy_is_the_same_each_time() -> None:
    one, two = video.wan().transformer.state_dict(), video.wan().transformer.state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_lora_file_changes_layers_of_all_three_networks(tmp_path: Path) -> None:
    pipe = pictured.xl()
    written = write_lora(pipe, tmp_path / "lora.safetensors")
    assert written.keys() == load_file(tmp_path / "lora.safetensors").keys()
    for key in written:
        part, rest = key.split(".", 1)
        network = getattr(pipe, part)
        if hasattr(network, "embeddings"):
            rest = rest.removeprefix("text_model.")
        layer = network.get_submodule(
            rest.removesuffix(".lora_A.weight").removesuffix(".lora_B.weight")
        )
        down = written[key.replace("lora_B", "lora_A")]
        up = written[key.replace("lora_A", "lora_B")]
        change = up @ down
        assert change.shape == layer.weight.shape
        assert 0.1 < change.norm() / layer.weight.norm() < 1
    assert {key.split(".")[0] for key in written} == {"unet", "text_encoder", "text_encoder_2"}
