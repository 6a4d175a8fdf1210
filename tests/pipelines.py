"""Small pipelines with random weights, of shapes other than the shipped ones."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)

from examples.shapes import models

SHIPPED = Path(__file__).parent.parent / "examples" / "shapes"


def tiny_vae(latent_channels: int = 4) -> AutoencoderKL:
    """Factor 2: two levels."""
    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=latent_channels,
        norm_num_groups=4,
        sample_size=16,
    )


def text_to_image(unet: UNet2DConditionModel, scheduler: object) -> StableDiffusionPipeline:
    """A Stable Diffusion pipeline around `unet`."""
    words = models.tokenizer()
    return StableDiffusionPipeline(
        vae=tiny_vae(unet.config.in_channels),
        text_encoder=models.text_encoder(words).eval(),
        tokenizer=words,
        unet=unet.eval(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def three_levels() -> StableDiffusionPipeline:
    """Three levels, one layer each, attention in one, linear projections, 12x12 latents."""
    torch.manual_seed(1)
    unet = UNet2DConditionModel(
        sample_size=12,
        block_out_channels=(16, 16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=2,
        cross_attention_dim=models.TEXT_WIDTH,
        norm_num_groups=4,
        use_linear_projection=True,
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        steps_offset=1,
    )
    return text_to_image(unet, scheduler)


def two_levels() -> StableDiffusionPipeline:
    """Two levels of unlike depth, two transformer blocks per attention, v-prediction, PNDM."""
    torch.manual_seed(2)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 24),
        layers_per_block=(1, 2),
        transformer_layers_per_block=2,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=2,
        cross_attention_dim=models.TEXT_WIDTH,
        norm_num_groups=8,
    )
    scheduler = PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        skip_prk_steps=True,
        steps_offset=1,
    )
    return text_to_image(unet, scheduler)


def learned_variance() -> DiTPipeline:
    """A DiT that predicts variances too, as DiT-XL/2 does."""
    torch.manual_seed(3)
    transformer = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=3,
        in_channels=4,
        out_channels=8,
        sample_size=8,
        num_embeds_ada_norm=1000,
    )
    return DiTPipeline(
        transformer=transformer.eval(), vae=tiny_vae(), scheduler=models.dit_scheduler()
    )


RANDOM = {
    "three-levels": three_levels,
    "two-levels": two_levels,
    "learned-variance": learned_variance,
}
"""Name -> how to make it."""


def stable_diffusion_15() -> StableDiffusionPipeline:
    """SD-1.5's U-Net without weights (meta device), behind a text encoder of the right width."""
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    return behind_wide_text(unet)


def behind_wide_text(unet: UNet2DConditionModel) -> StableDiffusionPipeline:
    """A pipeline around `unet` with the interfaces of SD-1.5: text `[77, 768]`, a VAE of factor 8."""
    from transformers import CLIPTextConfig, CLIPTextModel

    words = models.tokenizer()
    words.model_max_length = 77
    encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=768,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=8,
            max_position_embeddings=77,
            eos_token_id=words.eos_token_id,
        )
    )
    vae = AutoencoderKL(
        block_out_channels=(4, 4, 4, 4),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=4,
    )
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=encoder.eval(),
        tokenizer=words,
        unet=unet.eval(),
        scheduler=models.sd_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
