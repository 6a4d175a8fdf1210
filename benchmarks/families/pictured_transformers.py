"""FLUX.1 and Stable Diffusion 3 with a picture, a mask, a ControlNet."""

from __future__ import annotations

from typing import Any

from diffusers import (
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    FluxControlImg2ImgPipeline,
    FluxControlInpaintPipeline,
    FluxControlNetImg2ImgPipeline,
    FluxControlNetInpaintPipeline,
    FluxControlNetModel,
    FluxControlNetPipeline,
    FluxControlPipeline,
    FluxFillPipeline,
    FluxImg2ImgPipeline,
    FluxInpaintPipeline,
    FluxKontextInpaintPipeline,
    FluxKontextPipeline,
    FluxTransformer2DModel,
    SD3ControlNetModel,
    SD3Transformer2DModel,
    StableDiffusion3ControlNetPipeline,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusion3InpaintPipeline,
)

from benchmarks.families import encoders, image_classic, texts, words
from benchmarks.families.pictures import mask, picture
from benchmarks.families.stable_diffusion import picture_vae, strong
from benchmarks.families.toy import Toy
from benchmarks.families.weights import with_random_weights

FLUX = {
    "num_layers": 2,
    "num_single_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": texts.WIDTH,
    "pooled_projection_dim": texts.WIDTH,
    "axes_dims_rope": (4, 6, 6),
}
"""Two joint blocks and two single ones."""


def flux(channels: int = 16) -> dict[str, Any]:
    """The parts of FLUX.1 dev, whose network takes `channels` per token and answers 16."""
    return {
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        "vae": picture_vae(shift_factor=0.1159, scaling_factor=0.3611),
        "text_encoder": encoders.clip(words.clip()),
        "tokenizer": words.clip(),
        "text_encoder_2": texts.t5_encoder(),
        "tokenizer_2": words.t5(),
        "transformer": FluxTransformer2DModel(
            **FLUX, in_channels=channels, out_channels=16, guidance_embeds=True
        ),
    }


def flux_controlnet() -> FluxControlNetModel:
    """One joint block and one single one."""
    sizes = {**FLUX, "num_layers": 1, "num_single_layers": 1, "axes_dims_rope": [4, 6, 6]}
    return FluxControlNetModel(**sizes, in_channels=16, guidance_embeds=True)


def flux_image_to_image() -> DiffusionPipeline:
    """Begins from the picture with noise."""
    return with_random_weights(FluxImg2ImgPipeline(**flux()), 221)


def flux_inpaint() -> DiffusionPipeline:
    """What the mask leaves out is put back after each step."""
    return with_random_weights(FluxInpaintPipeline(**flux()), 222)


def flux_fill() -> DiffusionPipeline:
    """A network that is told mask and masked picture."""
    return with_random_weights(FluxFillPipeline(**flux(16 + 16 + 64)), 223)


def flux_kontext() -> DiffusionPipeline:
    """The picture's tokens follow the latents."""
    return with_random_weights(FluxKontextPipeline(**flux()), 224)


def flux_kontext_inpaint() -> DiffusionPipeline:
    """The picture's tokens follow the latents; what the mask leaves out is put back."""
    return with_random_weights(FluxKontextInpaintPipeline(**flux()), 225)


def flux_control() -> DiffusionPipeline:
    """A network that is told the control picture's latents."""
    return with_random_weights(FluxControlPipeline(**flux(32)), 226)


def flux_control_image_to_image() -> DiffusionPipeline:
    """Told the control picture's latents; begins from another picture with noise."""
    return with_random_weights(FluxControlImg2ImgPipeline(**flux(32)), 227)


def flux_control_inpaint() -> DiffusionPipeline:
    """Told the control picture's latents; what the mask leaves out is put back."""
    return with_random_weights(FluxControlInpaintPipeline(**flux(32)), 228)


def flux_beside_controlnet() -> DiffusionPipeline:
    """A ControlNet beside the transformer."""
    pipe = FluxControlNetPipeline(**flux(), controlnet=flux_controlnet())
    return strong(with_random_weights(pipe, 229), "controlnet")


def flux_beside_controlnet_image_to_image() -> DiffusionPipeline:
    """A ControlNet; begins from another picture with noise."""
    pipe = FluxControlNetImg2ImgPipeline(**flux(), controlnet=flux_controlnet())
    return strong(with_random_weights(pipe, 230), "controlnet")


def flux_beside_controlnet_inpaint() -> DiffusionPipeline:
    """A ControlNet; what the mask leaves out is put back."""
    pipe = FluxControlNetInpaintPipeline(**flux(), controlnet=flux_controlnet())
    return strong(with_random_weights(pipe, 231), "controlnet")


SD3 = {
    "sample_size": 8,
    "in_channels": 16,
    "num_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 4,
    "joint_attention_dim": 64,
    "caption_projection_dim": 32,
    "pooled_projection_dim": 48,
    "pos_embed_max_size": 8,
}
"""Two joint blocks."""


def sd3() -> dict[str, Any]:
    """The parts of Stable Diffusion 3, with the 16 channels that its inpainting asks for."""
    parts: dict[str, Any] = image_classic.stable_diffusion_3().components
    parts["vae"] = picture_vae(16, shift_factor=0.0609, scaling_factor=1.5305)
    parts["transformer"] = SD3Transformer2DModel(**SD3, out_channels=16)
    return parts


def sd3_image_to_image() -> DiffusionPipeline:
    """Begins from the picture with noise."""
    return with_random_weights(StableDiffusion3Img2ImgPipeline(**sd3()), 241)


def sd3_inpaint() -> DiffusionPipeline:
    """What the mask leaves out is put back after each step."""
    return with_random_weights(StableDiffusion3InpaintPipeline(**sd3()), 242)


def sd3_beside_controlnet() -> DiffusionPipeline:
    """A ControlNet of one block beside the transformer."""
    pipe = StableDiffusion3ControlNetPipeline(
        **sd3(), controlnet=SD3ControlNetModel(**{**SD3, "num_layers": 1})
    )
    return strong(with_random_weights(pipe, 243), "controlnet")


SIZE = {"height": 32, "width": 32, "max_sequence_length": 32}
_FROM = {**SIZE, "image": picture(), "strength": 0.6}
"""The last two steps of three; from all three the picture would not be seen at all."""

_PAINT = {**_FROM, "mask_image": mask()}
_CONTROL = {**SIZE, "control_image": picture(seed=1)}
_KONTEXT = {**SIZE, "image": picture(), "max_area": 32 * 32, "_auto_resize": False}

TOYS = (
    Toy("FluxImg2ImgPipeline", flux_image_to_image, _FROM),
    Toy("FluxInpaintPipeline", flux_inpaint, _PAINT),
    Toy("FluxFillPipeline", flux_fill, {**SIZE, "image": picture(), "mask_image": mask()}),
    Toy("FluxKontextPipeline", flux_kontext, _KONTEXT),
    Toy(
        "FluxKontextInpaintPipeline",
        flux_kontext_inpaint,
        {**_KONTEXT, "mask_image": mask(), "strength": 0.8},
    ),
    Toy("FluxControlPipeline", flux_control, _CONTROL),
    Toy("FluxControlImg2ImgPipeline", flux_control_image_to_image, {**_FROM, **_CONTROL}),
    Toy("FluxControlInpaintPipeline", flux_control_inpaint, {**_PAINT, **_CONTROL}),
    Toy("FluxControlNetPipeline", flux_beside_controlnet, _CONTROL),
    Toy(
        "FluxControlNetImg2ImgPipeline",
        flux_beside_controlnet_image_to_image,
        {**_FROM, **_CONTROL},
    ),
    Toy("FluxControlNetInpaintPipeline", flux_beside_controlnet_inpaint, {**_PAINT, **_CONTROL}),
    Toy("StableDiffusion3Img2ImgPipeline", sd3_image_to_image, _FROM),
    Toy("StableDiffusion3InpaintPipeline", sd3_inpaint, _PAINT),
    Toy("StableDiffusion3ControlNetPipeline", sd3_beside_controlnet, _CONTROL),
)
