"""Kandinsky, Kolors, Sana Sprint and Hunyuan-DiT with a picture."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    DiffusionPipeline,
    HunyuanDiT2DControlNetModel,
    HunyuanDiTControlNetPipeline,
    Kandinsky3Img2ImgPipeline,
    KandinskyImg2ImgPipeline,
    KandinskyInpaintPipeline,
    KandinskyV22ControlnetImg2ImgPipeline,
    KandinskyV22ControlnetPipeline,
    KandinskyV22Img2ImgPipeline,
    KandinskyV22InpaintPipeline,
    KolorsImg2ImgPipeline,
    SanaSprintImg2ImgPipeline,
    SD3ControlNetModel,
    StableDiffusion3ControlNetInpaintingPipeline,
    UNet2DConditionModel,
)

from benchmarks.families import autoencoders, image_cascade, image_llm_other, image_t5
from benchmarks.families.image_cascade import EMBEDDED
from benchmarks.families.pictured_transformers import SD3, sd3
from benchmarks.families.pictures import mask, picture
from benchmarks.families.stable_diffusion import strong
from benchmarks.families.toy import Toy
from benchmarks.families.weights import with_random_weights


def changed(parts: dict[str, Any], **settings: object) -> dict[str, Any]:
    """The parts with another U-Net: its settings but for some."""
    kept = {k: v for k, v in parts["unet"].config.items() if not k.startswith("_")}
    return {**parts, "unet": UNet2DConditionModel(**kept | settings)}


def kandinsky_image_to_image() -> DiffusionPipeline:
    """Kandinsky 2.1 that begins from the picture with noise."""
    return KandinskyImg2ImgPipeline(**image_cascade.kandinsky().components)


def kandinsky_inpaint() -> DiffusionPipeline:
    """Kandinsky 2.1: masked picture and mask are channels."""
    parts = changed(image_cascade.kandinsky().components, in_channels=9)
    return with_random_weights(KandinskyInpaintPipeline(**parts), 331, gain=1)


def kandinsky22_image_to_image() -> DiffusionPipeline:
    """Kandinsky 2.2 that begins from the picture with noise."""
    return KandinskyV22Img2ImgPipeline(**image_cascade.kandinsky22().components)


def kandinsky22_inpaint() -> DiffusionPipeline:
    """Kandinsky 2.2: masked picture and mask are channels."""
    parts = changed(image_cascade.kandinsky22().components, in_channels=9)
    return with_random_weights(KandinskyV22InpaintPipeline(**parts), 332, gain=1)


def hinted() -> dict[str, Any]:
    """The parts of Kandinsky 2.2 with a U-Net that sees a hint."""
    parts = image_cascade.kandinsky22().components
    return changed(parts, in_channels=8, addition_embed_type="image_hint")


def kandinsky22_control() -> DiffusionPipeline:
    """Kandinsky 2.2 with a hint."""
    return with_random_weights(KandinskyV22ControlnetPipeline(**hinted()), 333)


def kandinsky22_control_image_to_image() -> DiffusionPipeline:
    """Kandinsky 2.2 with a hint, begins from the picture with noise."""
    return with_random_weights(KandinskyV22ControlnetImg2ImgPipeline(**hinted()), 334)


def kandinsky3_image_to_image() -> DiffusionPipeline:
    """Kandinsky 3 that begins from the picture with noise."""
    return Kandinsky3Img2ImgPipeline(**image_t5.kandinsky3().components)


def kolors_image_to_image() -> DiffusionPipeline:
    """Kolors that begins from the picture with noise."""
    return KolorsImg2ImgPipeline(**image_llm_other.kolors().components)


def sprint_image_to_image() -> DiffusionPipeline:
    """Sana Sprint that begins from the picture with noise."""
    return SanaSprintImg2ImgPipeline(**image_llm_other.sana_sprint().components)


def hunyuan_dit_control() -> DiffusionPipeline:
    """A ControlNet of half the blocks beside Hunyuan-DiT."""
    parts = {**image_t5.hunyuan_dit().components, "vae": autoencoders.kl(levels=4)}
    beside = HunyuanDiT2DControlNetModel.from_transformer(
        parts["transformer"], load_weights_from_transformer=False, transformer_num_layers=4
    )
    pipe = HunyuanDiTControlNetPipeline(**parts, controlnet=beside, requires_safety_checker=False)
    return strong(with_random_weights(pipe, 335, gain=1), "controlnet")


def sd3_control_inpaint() -> DiffusionPipeline:
    """A ControlNet that is told masked picture and mask."""
    beside = SD3ControlNetModel(**{**SD3, "num_layers": 1}, extra_conditioning_channels=1)
    pipe = StableDiffusion3ControlNetInpaintingPipeline(**sd3(), controlnet=beside)
    return strong(with_random_weights(pipe, 336), "controlnet")


SQUARE = {"height": 64, "width": 64}
HINT = {"hint": torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(3))}
_FROM = {"image": picture(64), "strength": 0.8}
_PAINT = {"image": picture(64), "mask_image": mask(64)}

TOYS = (
    Toy("KandinskyImg2ImgPipeline", kandinsky_image_to_image, {**SQUARE, **EMBEDDED, **_FROM}),
    Toy("KandinskyInpaintPipeline", kandinsky_inpaint, {**SQUARE, **EMBEDDED, **_PAINT}),
    Toy("KandinskyV22Img2ImgPipeline", kandinsky22_image_to_image, {**SQUARE, **EMBEDDED, **_FROM}),
    Toy("KandinskyV22InpaintPipeline", kandinsky22_inpaint, {**SQUARE, **EMBEDDED, **_PAINT}),
    Toy("KandinskyV22ControlnetPipeline", kandinsky22_control, {**SQUARE, **EMBEDDED, **HINT}),
    Toy(
        "KandinskyV22ControlnetImg2ImgPipeline",
        kandinsky22_control_image_to_image,
        {**SQUARE, **EMBEDDED, **HINT, **_FROM},
    ),
    Toy("Kandinsky3Img2ImgPipeline", kandinsky3_image_to_image, _FROM),
    Toy(
        "KolorsImg2ImgPipeline",
        kolors_image_to_image,
        {"image": picture(16), "strength": 0.8, "max_sequence_length": 24},
    ),
    Toy(
        "SanaSprintImg2ImgPipeline",
        sprint_image_to_image,
        {
            "height": 32,
            "width": 32,
            "image": picture(),
            "strength": 0.6,
            "max_sequence_length": 48,
            "use_resolution_binning": False,
            "intermediate_timesteps": None,
        },
    ),
    Toy(
        "HunyuanDiTControlNetPipeline",
        hunyuan_dit_control,
        {
            "height": 32,
            "width": 32,
            "control_image": picture(seed=1),
            "use_resolution_binning": False,
        },
    ),
    Toy(
        "StableDiffusion3ControlNetInpaintingPipeline",
        sd3_control_inpaint,
        {
            "height": 32,
            "width": 32,
            "control_image": picture(seed=1),
            "control_mask": mask(),
            "max_sequence_length": 32,
        },
    ),
)
