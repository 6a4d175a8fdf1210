"""The first pipelines: pictures without a prompt, and latent diffusion."""

from __future__ import annotations

from diffusers import (
    CMStochasticIterativeScheduler,
    ConsistencyModelPipeline,
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    LDMTextToImagePipeline,
    UNet2DConditionModel,
    UNet2DModel,
)

from benchmarks.families import autoencoders, encoders, texts, words
from benchmarks.families.toy import Toy
from benchmarks.families.weights import with_random_weights


def pixel_unet(**settings: object) -> UNet2DModel:
    """Two levels on pixels, attention in the lower."""
    return UNet2DModel(
        sample_size=16,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
        norm_num_groups=4,
        **settings,
    )


def ddpm() -> DDPMPipeline:
    """Adds noise at each step."""
    pipe = DDPMPipeline(unet=pixel_unet(), scheduler=DDPMScheduler())
    return with_random_weights(pipe, 120)


def ddim() -> DDIMPipeline:
    """Adds none."""
    pipe = DDIMPipeline(unet=pixel_unet(), scheduler=DDIMScheduler())
    return with_random_weights(pipe, 121)


def consistency_model() -> ConsistencyModelPipeline:
    """Asked for a class; scaled input, noise between the steps."""
    unet = pixel_unet(num_class_embeds=10, resnet_time_scale_shift="scale_shift")
    scheduler = CMStochasticIterativeScheduler(num_train_timesteps=40)
    return with_random_weights(ConsistencyModelPipeline(unet=unet, scheduler=scheduler), 122)


def latent_diffusion() -> LDMTextToImagePipeline:
    """A text encoder of its own."""
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=2,
        cross_attention_dim=texts.WIDTH,
        norm_num_groups=4,
    )
    pipe = LDMTextToImagePipeline(
        vqvae=autoencoders.kl(levels=4),
        bert=encoders.ldm_bert(),
        tokenizer=words.bert(),
        unet=unet,
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
        ),
    )
    return with_random_weights(pipe, 123)


UNCLIPPED = {"clip_sample": False}

TOYS = (
    Toy("DDPMPipeline", ddpm, scheduler=UNCLIPPED),
    Toy("DDIMPipeline", ddim, scheduler=UNCLIPPED),
    Toy(
        "ConsistencyModelPipeline",
        consistency_model,
        {"class_labels": 1},
        scheduler={"clip_denoised": False},
    ),
    Toy("LDMTextToImagePipeline", latent_diffusion, {"height": 64, "width": 64}),
)
