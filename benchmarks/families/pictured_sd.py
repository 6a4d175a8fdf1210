"""Stable Diffusion 1.5 and XL with a picture, a mask, a ControlNet."""

from __future__ import annotations

from typing import Any

from diffusers import (
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
)

from benchmarks.families import encoders, words
from benchmarks.families.pictures import mask, picture
from benchmarks.families.stable_diffusion import (
    SCHEDULE,
    controlnet,
    picture_vae,
    strong,
    unet,
    unet_xl,
)
from benchmarks.families.toy import Toy
from benchmarks.families.weights import with_random_weights


def parts(channels: int = 4) -> dict[str, Any]:
    """The parts of Stable Diffusion 1.5, with the scheduler of its first release."""
    return {
        "vae": picture_vae(),
        "text_encoder": encoders.clip(words.clip()),
        "tokenizer": words.clip(),
        "unet": unet(channels),
        "scheduler": PNDMScheduler(
            **SCHEDULE, steps_offset=1, set_alpha_to_one=False, skip_prk_steps=True
        ),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }


def parts_xl(channels: int = 4) -> dict[str, Any]:
    """The parts of Stable Diffusion XL."""
    return {
        "vae": picture_vae(),
        "text_encoder": encoders.clip(words.clip()),
        "text_encoder_2": encoders.clip_projected(words.clip()),
        "tokenizer": words.clip(),
        "tokenizer_2": words.clip(),
        "unet": unet_xl(channels),
        "scheduler": EulerDiscreteScheduler(**SCHEDULE, steps_offset=1, timestep_spacing="leading"),
        "add_watermarker": False,
    }


def image_to_image() -> DiffusionPipeline:
    """Begins from the picture with noise; the last 2 steps of 3, which PNDM makes 3 calls."""
    return with_random_weights(StableDiffusionImg2ImgPipeline(**parts()), 201)


def inpaint() -> DiffusionPipeline:
    """A U-Net of 4 channels: what the mask leaves out is put back after each step."""
    scheduler = DDIMScheduler(**SCHEDULE, steps_offset=1, set_alpha_to_one=False, clip_sample=False)
    made = StableDiffusionInpaintPipeline(**{**parts(), "scheduler": scheduler})
    return with_random_weights(made, 202)


def inpaint_channels() -> DiffusionPipeline:
    """A U-Net of 9 channels: latents, mask, and the latents of the picture without the masked part."""
    return with_random_weights(StableDiffusionInpaintPipeline(**parts(9)), 203)


def control() -> DiffusionPipeline:
    """A ControlNet beside the U-Net of 1.5."""
    built = parts()
    made = StableDiffusionControlNetPipeline(**built, controlnet=controlnet(built["unet"]))
    return strong(with_random_weights(made, 204), "controlnet")


def xl() -> DiffusionPipeline:
    """From text alone: what a LoRA is put into."""
    return with_random_weights(StableDiffusionXLPipeline(**parts_xl()), 205)


def image_to_image_xl() -> DiffusionPipeline:
    """Begins from the picture with noise."""
    return with_random_weights(StableDiffusionXLImg2ImgPipeline(**parts_xl()), 206)


def inpaint_xl() -> DiffusionPipeline:
    """A U-Net of 4 channels."""
    return with_random_weights(StableDiffusionXLInpaintPipeline(**parts_xl()), 207)


def inpaint_channels_xl() -> DiffusionPipeline:
    """A U-Net of 9 channels."""
    return with_random_weights(StableDiffusionXLInpaintPipeline(**parts_xl(9)), 208)


def control_xl() -> DiffusionPipeline:
    """A ControlNet beside the U-Net of XL."""
    built = parts_xl()
    made = StableDiffusionXLControlNetPipeline(**built, controlnet=controlnet(built["unet"]))
    return strong(with_random_weights(made, 209), "controlnet")


SIZE = {"height": 32, "width": 32}
_FROM = {"image": picture(), "strength": 0.8}
_PAINT = {"image": picture(), "mask_image": mask(), **SIZE}
_CONTROL = {"image": picture()}

TOYS = (
    Toy("StableDiffusionImg2ImgPipeline", image_to_image, _FROM),
    Toy("StableDiffusionInpaintPipeline", inpaint, _PAINT),
    Toy("StableDiffusionInpaintPipeline", inpaint_channels, _PAINT),
    Toy("StableDiffusionControlNetPipeline", control, _CONTROL),
    Toy("StableDiffusionXLPipeline", xl, SIZE),
    Toy("StableDiffusionXLImg2ImgPipeline", image_to_image_xl, _FROM),
    Toy("StableDiffusionXLInpaintPipeline", inpaint_xl, _PAINT),
    Toy("StableDiffusionXLInpaintPipeline", inpaint_channels_xl, _PAINT),
    Toy("StableDiffusionXLControlNetPipeline", control_xl, _CONTROL),
)
"""The name of the function tells two of one class apart."""
