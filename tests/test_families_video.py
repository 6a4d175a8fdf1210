"""Toys of videos, and of pipelines that begin from pictures."""

from __future__ import annotations

import inspect
from collections import Counter
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image, ImageOps
from safetensors.torch import load_file

from benchmarks.families import ip_adapter, pictured, pictured_sd, sound, video, video_wan
from benchmarks.families.lora import write_lora
from benchmarks.families.toy import Toy

TOYS = (*video.TOYS, *pictured.TOYS, *sound.TOYS)
FAST = ("wan", "inpaint_channels", "control_xl")
PROMPT = "a red circle on a blue field"
OTHER = "two green squares, painted at dusk"
LARGEST = {"HunyuanVideo15Pipeline": 24e6, "HunyuanVideo15ImageToVideoPipeline": 24e6}
"""Bytes; a layer for quoted words is 2048 wide in every instance of the class."""
NO_LATENTS = (
    "KandinskyImg2ImgCombinedPipeline",
    "KandinskyInpaintCombinedPipeline",
    "IFImg2ImgPipeline",
    "IFInpaintingPipeline",
    "IFInpaintingSuperResolutionPipeline",
    "IFSuperResolutionPipeline",
    "KandinskyImg2ImgPipeline",
    "KandinskyInpaintPipeline",
    "KandinskyV22ControlnetImg2ImgPipeline",
    "KandinskyV22ControlnetPipeline",
)
"""Their calls give finished pictures only."""

WARNED = (
    "flex_attention called without torch.compile",  # AnyFlowFAR
    "In CPU autocast",  # Mochi
    "torch.meshgrid",  # TextToVideoZeroSDXL
    "Default grid_sample and affine_grid behavior has changed",  # TextToVideoZeroSDXL
    "The decode_latents method is deprecated",  # StableDiffusionAdapter
    "`torch.nn.utils.weight_norm` is deprecated",  # StableAudio
)
"""What diffusers warns of itself."""


def each(toy: Toy) -> Any:
    name = getattr(toy.build, "__name__", "perturbed")
    marks = [pytest.mark.filterwarnings(f"ignore:{text}") for text in WARNED]
    marks += [] if name in FAST else [pytest.mark.slow]
    return pytest.param(toy, id=f"{toy.cls}-{name}", marks=marks)


def loaded(toy: Toy, folder: Path) -> Any:
    toy.build().save_pretrained(folder)
    pipe = DiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    if toy.cls == "AllegroPipeline":
        pipe.vae.enable_tiling()  # it decodes nothing otherwise
    return pipe


def made(pipe: Any, toy: Toy, *, output: str = "latent", **changed: Any) -> Any:
    takes = inspect.signature(type(pipe).__call__).parameters
    scale = "true_cfg_scale" if "true_cfg_scale" in takes else "guidance_scale"
    asked = {"prompt": PROMPT, "num_inference_steps": 3, scale: toy.guidance}
    asked |= {"negative_prompt": "blurry", "generator": torch.Generator().manual_seed(0)}
    asked |= {"output_type": "np" if toy.cls in NO_LATENTS else output}
    call = {k: v for k, v in {**asked, **toy.call, **changed}.items() if k in takes}
    torch.manual_seed(0)  # some encode their control picture with noise that no generator gave
    return torch.as_tensor(np.asarray(pipe(**call)[0])).double()


def other(given: Any) -> Any:
    if isinstance(given, Image.Image):
        return ImageOps.mirror(given.rotate(90))
    return given.flip(-1) if isinstance(given, torch.Tensor) else [other(one) for one in given]


def others(pipe: Any, toy: Toy) -> dict[str, Any]:
    """What may be asked for instead, argument by argument."""
    given = {k: v for k, v in toy.call.items() if isinstance(v, (Image.Image, torch.Tensor, list))}
    shown = {k: v for k, v in given.items() if not (isinstance(v, list) and isinstance(v[0], int))}
    takes = "prompt" in inspect.signature(type(pipe).__call__).parameters
    return {k: other(v) for k, v in shown.items()} | ({"prompt": OTHER} if takes else {})


@pytest.mark.parametrize("toy", [each(toy) for toy in TOYS])
def test_a_toy_is_small_and_loads_and_all_that_it_is_given_matters(
    toy: Toy, tmp_path: Path
) -> None:
    pipe = loaded(toy, tmp_path)
    assert type(pipe).__name__ == toy.cls
    size = sum(f.stat().st_size for f in tmp_path.rglob("*") if f.is_file())
    assert size < LARGEST.get(toy.cls, 6e6)
    first = made(pipe, toy)
    assert torch.isfinite(first).all()
    assert torch.equal(first, made(pipe, toy))
    changes = others(pipe, toy)
    assert changes
    for name, value in changes.items():
        difference = (made(pipe, toy, **{name: value}) - first).norm() / first.norm()
        assert 0.01 < difference < 4, name
    shown = made(pipe, toy, output="np")
    assert torch.isfinite(shown).all()
    assert shown.std() > 0.02


def test_a_toy_is_the_same_each_time() -> None:
    one, two = video_wan.wan().transformer.state_dict(), video_wan.wan().transformer.state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_two_toys_of_one_class_have_names_of_their_own() -> None:
    named = [(toy.cls, getattr(toy.build, "__name__", "")) for toy in TOYS]
    assert max(Counter(named).values()) == 1


def test_each_class_of_diffusers_has_a_toy_or_a_reason_for_none() -> None:
    from benchmarks.families import image

    exported = {name: getattr(diffusers, name, None) for name in dir(diffusers)}
    classes = {
        name
        for name, cls in exported.items()
        if isinstance(cls, type) and issubclass(cls, DiffusionPipeline)
        if ".deprecated." not in cls.__module__ and cls is not DiffusionPipeline
    }
    families = (image, video, pictured, sound)
    built = {toy.cls for family in families for toy in family.TOYS}
    reasons = {name for family in families for name in family.NOT_BUILT}
    assert classes - built - reasons == set()
    assert built & reasons == set()


def test_a_lora_file_changes_layers_of_all_three_networks(tmp_path: Path) -> None:
    pipe = pictured_sd.xl()
    written = write_lora(pipe, tmp_path / "lora.safetensors")
    assert written.keys() == load_file(tmp_path / "lora.safetensors").keys()
    assert {key.split(".")[0] for key in written} == {"unet", "text_encoder", "text_encoder_2"}
    for key, down in written.items():
        if "lora_A" in key:
            part, name = key.removesuffix(".lora_A.weight").split(".", 1)
            network = getattr(pipe, part)
            if not hasattr(network, "text_model"):
                name = name.removeprefix("text_model.")
            change = written[key.replace("lora_A", "lora_B")] @ down
            weight = network.get_submodule(name).weight
            assert change.shape == weight.shape
            assert 0.1 < change.norm() / weight.norm() < 1


def test_an_ip_adapter_file_loads_and_its_picture_matters(tmp_path: Path) -> None:
    from benchmarks.families.pictures import picture

    pipe = ip_adapter.seeing()
    pipe.set_progress_bar_config(disable=True)
    ip_adapter.write_ip_adapter(pipe, tmp_path / "adapter.safetensors")
    pipe.load_ip_adapter(
        tmp_path, subfolder="", weight_name="adapter.safetensors", image_encoder_folder=None
    )
    toy = Toy("StableDiffusionPipeline", ip_adapter.seeing, {"height": 32, "width": 32})
    one, two = (made(pipe, toy, ip_adapter_image=picture(seed=seed)) for seed in (0, 1))
    assert (one - two).norm() / one.norm() > 0.05
