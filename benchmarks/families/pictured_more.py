"""Rarer pipelines of Stable Diffusion 1.5, 2 and XL that are given a picture."""

from __future__ import annotations

from typing import Any

from diffusers import (
    ControlNetUnionModel,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    LatentConsistencyModelImg2ImgPipeline,
    LCMScheduler,
    StableDiffusionAdapterPipeline,
    StableDiffusionControlNetImg2ImgPipeline,
    StableDiffusionControlNetInpaintPipeline,
    StableDiffusionImageVariationPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionLatentUpscalePipeline,
    StableDiffusionUpscalePipeline,
    StableDiffusionXLAdapterPipeline,
    StableDiffusionXLControlNetImg2ImgPipeline,
    StableDiffusionXLControlNetInpaintPipeline,
    StableDiffusionXLControlNetUnionImg2ImgPipeline,
    StableDiffusionXLControlNetUnionInpaintPipeline,
    StableDiffusionXLControlNetUnionPipeline,
    StableDiffusionXLInstructPix2PixPipeline,
    T2IAdapter,
    UNet2DConditionModel,
)

from benchmarks.families import encoders, texts, words
from benchmarks.families.pictured_sd import parts, parts_xl
from benchmarks.families.pictures import mask, picture
from benchmarks.families.stable_diffusion import (
    SCHEDULE,
    controlnet,
    picture_vae,
    strong,
    unet,
)
from benchmarks.families.toy import Toy
from benchmarks.families.weights import with_random_weights


def beside(cls: type[DiffusionPipeline], built: dict[str, Any], seed: int) -> DiffusionPipeline:
    """A pipeline of `cls` with a ControlNet beside the U-Net."""
    pipe = cls(**built, controlnet=controlnet(built["unet"]))
    return strong(with_random_weights(pipe, seed), "controlnet")


def control_image_to_image() -> DiffusionPipeline:
    """A ControlNet; begins from another picture with noise."""
    return beside(StableDiffusionControlNetImg2ImgPipeline, parts(), 301)


def control_inpaint() -> DiffusionPipeline:
    """A ControlNet; what the mask leaves out is put back."""
    return beside(StableDiffusionControlNetInpaintPipeline, parts(), 302)


def control_image_to_image_xl() -> DiffusionPipeline:
    """A ControlNet; begins from another picture with noise."""
    return beside(StableDiffusionXLControlNetImg2ImgPipeline, parts_xl(), 303)


def control_inpaint_xl() -> DiffusionPipeline:
    """A ControlNet; what the mask leaves out is put back."""
    return beside(StableDiffusionXLControlNetInpaintPipeline, parts_xl(), 304)


def union(cls: type[DiffusionPipeline], seed: int) -> DiffusionPipeline:
    """A ControlNet that is told which kinds of control it is given."""
    built = parts_xl()
    made = ControlNetUnionModel.from_unet(built["unet"], load_weights_from_unet=False)
    config = {k: v for k, v in made.config.items() if not k.startswith("_")}
    small = {"conditioning_embedding_out_channels": (8, 8, 8), "num_control_type": 6}
    small |= {"num_trans_head": 2, "num_trans_channel": 16, "num_proj_channel": 16}
    pipe = cls(**built, controlnet=ControlNetUnionModel(**config | small))
    return strong(with_random_weights(pipe, seed), "controlnet")


def control_union() -> DiffusionPipeline:
    """From text."""
    return union(StableDiffusionXLControlNetUnionPipeline, 305)


def control_union_image_to_image() -> DiffusionPipeline:
    """Begins from another picture with noise."""
    return union(StableDiffusionXLControlNetUnionImg2ImgPipeline, 306)


def control_union_inpaint() -> DiffusionPipeline:
    """What the mask leaves out is put back."""
    return union(StableDiffusionXLControlNetUnionInpaintPipeline, 307)


def adapted() -> DiffusionPipeline:
    """A T2I adapter beside 1.5, which sees the control picture once and not at each step."""
    seen = T2IAdapter(
        channels=[16, 24], num_res_blocks=1, downscale_factor=4, adapter_type="full_adapter"
    )
    return with_random_weights(StableDiffusionAdapterPipeline(**parts(), adapter=seen), 308)


def adapted_xl() -> DiffusionPipeline:
    """A T2I adapter beside XL, which has three levels for it."""
    built = {k: v for k, v in parts_xl().items() if k != "add_watermarker"}
    settings = {k: v for k, v in built["unet"].config.items() if not k.startswith("_")}
    built["unet"] = UNet2DConditionModel(
        **settings
        | {
            "block_out_channels": (16, 32, 32),
            "transformer_layers_per_block": (1, 2, 1),
            "attention_head_dim": (2, 4, 4),
            "down_block_types": ("DownBlock2D", *["CrossAttnDownBlock2D"] * 2),
            "up_block_types": (*["CrossAttnUpBlock2D"] * 2, "UpBlock2D"),
        }
    )
    seen = T2IAdapter(
        channels=[16, 32, 32, 32],
        num_res_blocks=1,
        downscale_factor=8,
        adapter_type="full_adapter_xl",
    )
    return with_random_weights(StableDiffusionXLAdapterPipeline(**built, adapter=seen), 309)


def instructed() -> DiffusionPipeline:
    """Edits as told: three batches, with and without text and picture."""
    return with_random_weights(StableDiffusionInstructPix2PixPipeline(**parts(8)), 310)


def instructed_xl() -> DiffusionPipeline:
    """Edits as told: three batches, with and without text and picture."""
    return with_random_weights(StableDiffusionXLInstructPix2PixPipeline(**parts_xl(8)), 311)


def variation() -> DiffusionPipeline:
    """From a picture's tokens in the place of text."""
    built = {k: v for k, v in parts().items() if k not in ("text_encoder", "tokenizer")}
    built |= {"feature_extractor": encoders.clip_pictures()}
    pipe = StableDiffusionImageVariationPipeline(**built, image_encoder=encoders.clip_vision())
    return with_random_weights(pipe, 312)


def upscale() -> DiffusionPipeline:
    """Four times as large; the small picture with noise is three channels."""
    network = unet(7)
    settings = {k: v for k, v in network.config.items() if not k.startswith("_")}
    settings |= {"num_class_embeds": 1000, "sample_size": 32}
    built = {k: v for k, v in parts().items() if k != "requires_safety_checker"}
    pipe = StableDiffusionUpscalePipeline(
        **{
            **built,
            "unet": UNet2DConditionModel(**settings),
            "vae": picture_vae(scaling_factor=0.08333),
        },
        low_res_scheduler=EulerDiscreteScheduler(**SCHEDULE),
        max_noise_level=350,
    )
    return with_random_weights(pipe, 313)


def latent_consistency() -> DiffusionPipeline:
    """Few steps, the guidance told to the network; begins from the picture with noise."""
    settings = {k: v for k, v in unet().config.items() if not k.startswith("_")}
    network = UNet2DConditionModel(**settings | {"time_cond_proj_dim": 16})
    scheduler = LCMScheduler(**SCHEDULE, steps_offset=1)
    built = {**parts(), "unet": network, "scheduler": scheduler}
    return with_random_weights(LatentConsistencyModelImg2ImgPipeline(**built), 314)


def latent_upscale() -> DiffusionPipeline:
    """Twice as large; text and time are conditions of a U-Net of k-diffusion."""
    network = UNet2DConditionModel(
        sample_size=16,
        in_channels=8,
        out_channels=5,
        block_out_channels=(32, 32, 64, 64),
        layers_per_block=1,
        act_fn="gelu",
        attention_head_dim=8,
        norm_num_groups=None,
        cross_attention_dim=texts.WIDTH,
        down_block_types=("KDownBlock2D", *["KCrossAttnDownBlock2D"] * 3),
        up_block_types=(*["KCrossAttnUpBlock2D"] * 3, "KUpBlock2D"),
        mid_block_type=None,
        time_embedding_type="fourier",
        resnet_time_scale_shift="scale_shift",
        time_cond_proj_dim=128 + texts.WIDTH,
        conv_in_kernel=1,
        conv_out_kernel=1,
        only_cross_attention=False,
    )
    pipe = StableDiffusionLatentUpscalePipeline(
        vae=picture_vae(),
        text_encoder=encoders.clip(words.clip()),
        tokenizer=words.clip(),
        unet=network,
        scheduler=EulerDiscreteScheduler(**SCHEDULE, prediction_type="sample"),
    )
    return with_random_weights(pipe, 315)


SIZE = {"height": 32, "width": 32}
_SEEN = {"image": picture()}
_FROM = {**_SEEN, "strength": 0.8}
_PAINT = {**_SEEN, **SIZE, "mask_image": mask()}
_CONTROL = {"control_image": picture(seed=1)}
_MODE = {**_CONTROL, "control_mode": 3}

TOYS = (
    Toy("StableDiffusionControlNetImg2ImgPipeline", control_image_to_image, {**_FROM, **_CONTROL}),
    Toy("StableDiffusionControlNetInpaintPipeline", control_inpaint, {**_PAINT, **_CONTROL}),
    Toy(
        "StableDiffusionXLControlNetImg2ImgPipeline",
        control_image_to_image_xl,
        {**_FROM, **_CONTROL},
    ),
    Toy("StableDiffusionXLControlNetInpaintPipeline", control_inpaint_xl, {**_PAINT, **_CONTROL}),
    Toy("StableDiffusionXLControlNetUnionPipeline", control_union, _MODE),
    Toy(
        "StableDiffusionXLControlNetUnionImg2ImgPipeline",
        control_union_image_to_image,
        {**_FROM, **_MODE},
    ),
    Toy(
        "StableDiffusionXLControlNetUnionInpaintPipeline",
        control_union_inpaint,
        {**_PAINT, **_MODE},
    ),
    Toy("StableDiffusionAdapterPipeline", adapted, {**_SEEN, **SIZE}),
    Toy("StableDiffusionXLAdapterPipeline", adapted_xl, {**_SEEN, **SIZE}),
    Toy("StableDiffusionInstructPix2PixPipeline", instructed, _SEEN),
    Toy("StableDiffusionXLInstructPix2PixPipeline", instructed_xl, {**_SEEN, **SIZE}),
    Toy("StableDiffusionImageVariationPipeline", variation, {**_SEEN, **SIZE}),
    Toy("StableDiffusionUpscalePipeline", upscale, {"image": picture(16)}),
    Toy("StableDiffusionLatentUpscalePipeline", latent_upscale, _SEEN),
    Toy("LatentConsistencyModelImg2ImgPipeline", latent_consistency, _FROM),
)
