"""Stable Diffusion with more than a prompt: a picture, a mask, a ControlNet."""

from __future__ import annotations

from functools import partial
from typing import Any

from diffusers import (
    ControlNetModel,
    DDIMScheduler,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)

from benchmarks.families.pictures import mask, picture
from benchmarks.families.random_weights import randomise
from benchmarks.families.stable_diffusion import SCHEDULE, controlnet, picture_vae, unet, unet_xl
from benchmarks.families.toy import Toy
from benchmarks.families.video_texts import clip_encoder, clip_tokenizer, clip_with_projection

SIZE = {"height": 32, "width": 32}


def stable_diffusion(
    cls: type[DiffusionPipeline], *, seed: int, channels: int = 4, control: bool = False
) -> DiffusionPipeline:
    """A pipeline of `cls` with the parts of Stable Diffusion 1.5."""
    words = clip_tokenizer()
    network, vae, text_encoder = unet(channels), picture_vae(), clip_encoder(words)
    randomise(network, vae, text_encoder, seed=seed)
    return cls(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=words,
        unet=network,
        scheduler=(DDIMScheduler if cls is StableDiffusionInpaintPipeline else PNDMScheduler)(
            **SCHEDULE,
            steps_offset=1,
            set_alpha_to_one=False,
            **(
                {"clip_sample": False}
                if cls is StableDiffusionInpaintPipeline
                else {"skip_prk_steps": True}
            ),
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        **({"controlnet": _control(network, seed)} if control else {}),
    )


def stable_diffusion_xl(
    cls: type[DiffusionPipeline], *, seed: int, channels: int = 4, control: bool = False
) -> DiffusionPipeline:
    """A pipeline of `cls` with the parts of Stable Diffusion XL."""
    words = clip_tokenizer()
    network, vae = unet_xl(channels), picture_vae()
    first, second = clip_encoder(words), clip_with_projection(words)
    randomise(network, vae, first, second, seed=seed)
    return cls(
        vae=vae,
        text_encoder=first,
        text_encoder_2=second,
        tokenizer=words,
        tokenizer_2=words,
        unet=network,
        scheduler=EulerDiscreteScheduler(**SCHEDULE, steps_offset=1, timestep_spacing="leading"),
        add_watermarker=False,
        **({"controlnet": _control(network, seed)} if control else {}),
    )


def _control(network: UNet2DConditionModel, seed: int) -> ControlNetModel:
    made = controlnet(network)
    randomise(made, seed=seed + 1000, gain=2)
    return made


def _toy(
    make: Any, cls: type[DiffusionPipeline], seed: int, call: dict[str, Any], **parts: Any
) -> Toy:
    return Toy(cls.__name__, partial(make, cls, seed=seed, **parts), call)


_FROM = {"image": picture(), "strength": 0.8}
_PAINT = {"image": picture(), "mask_image": mask(), **SIZE}

TOYS = {
    "sd-image-to-image": _toy(stable_diffusion, StableDiffusionImg2ImgPipeline, 1, _FROM),
    "sd-inpaint-4": _toy(stable_diffusion, StableDiffusionInpaintPipeline, 2, _PAINT),
    "sd-inpaint-9": _toy(stable_diffusion, StableDiffusionInpaintPipeline, 3, _PAINT, channels=9),
    "sd-controlnet": _toy(
        stable_diffusion, StableDiffusionControlNetPipeline, 4, {"image": picture()}, control=True
    ),
    "sdxl": _toy(stable_diffusion_xl, StableDiffusionXLPipeline, 5, SIZE),
    "sdxl-image-to-image": _toy(stable_diffusion_xl, StableDiffusionXLImg2ImgPipeline, 6, _FROM),
    "sdxl-inpaint-4": _toy(stable_diffusion_xl, StableDiffusionXLInpaintPipeline, 7, _PAINT),
    "sdxl-inpaint-9": _toy(
        stable_diffusion_xl, StableDiffusionXLInpaintPipeline, 8, _PAINT, channels=9
    ),
    "sdxl-controlnet": _toy(
        stable_diffusion_xl,
        StableDiffusionXLControlNetPipeline,
        9,
        {"image": picture()},
        control=True,
    ),
}
"""Name -> toy."""
