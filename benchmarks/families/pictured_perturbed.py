"""Perturbed attention (Ahn et al. 2024) where a picture is given: one more batch in each call."""

from __future__ import annotations

from functools import partial

from diffusers import (
    AnimateDiffPAGPipeline,
    StableDiffusion3PAGImg2ImgPipeline,
    StableDiffusionControlNetPAGInpaintPipeline,
    StableDiffusionControlNetPAGPipeline,
    StableDiffusionPAGImg2ImgPipeline,
    StableDiffusionPAGInpaintPipeline,
    StableDiffusionXLControlNetPAGImg2ImgPipeline,
    StableDiffusionXLControlNetPAGPipeline,
    StableDiffusionXLPAGImg2ImgPipeline,
    StableDiffusionXLPAGInpaintPipeline,
)

from benchmarks.families import pictured_more, pictured_sd, pictured_transformers, video_unet
from benchmarks.families.image_perturbed import perturbed
from benchmarks.families.toy import Toy

PLAIN = {
    toy.cls: toy
    for module in (pictured_sd, pictured_more, pictured_transformers, video_unet)
    for toy in module.TOYS
}

TOYS = tuple(
    Toy(cls.__name__, partial(perturbed, cls, PLAIN[plain].build), PLAIN[plain].call)
    for cls, plain in (
        (StableDiffusionPAGImg2ImgPipeline, "StableDiffusionImg2ImgPipeline"),
        (StableDiffusionPAGInpaintPipeline, "StableDiffusionInpaintPipeline"),
        (StableDiffusionControlNetPAGPipeline, "StableDiffusionControlNetPipeline"),
        (StableDiffusionControlNetPAGInpaintPipeline, "StableDiffusionControlNetInpaintPipeline"),
        (StableDiffusionXLPAGImg2ImgPipeline, "StableDiffusionXLImg2ImgPipeline"),
        (StableDiffusionXLPAGInpaintPipeline, "StableDiffusionXLInpaintPipeline"),
        (StableDiffusionXLControlNetPAGPipeline, "StableDiffusionXLControlNetPipeline"),
        (
            StableDiffusionXLControlNetPAGImg2ImgPipeline,
            "StableDiffusionXLControlNetImg2ImgPipeline",
        ),
        (StableDiffusion3PAGImg2ImgPipeline, "StableDiffusion3Img2ImgPipeline"),
        (AnimateDiffPAGPipeline, "AnimateDiffPipeline"),
    )
)
