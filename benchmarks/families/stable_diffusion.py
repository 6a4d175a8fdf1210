"""Networks of Stable Diffusion 1.5 and XL at a small size."""

from __future__ import annotations

from typing import TypeVar

from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DiffusionPipeline,
    UNet2DConditionModel,
)

from benchmarks.families.texts import WIDTH

P = TypeVar("P", bound=DiffusionPipeline)

SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
"""Of Stable Diffusion 1.5 and XL."""


def picture_vae(latent_channels: int = 4, **settings: float | bool) -> AutoencoderKL:
    """Factor 4."""
    return AutoencoderKL(
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=latent_channels,
        norm_num_groups=4,
        sample_size=32,
        force_upcast=False,
        **settings,
    )


def unet(in_channels: int = 4) -> UNet2DConditionModel:
    """Of 1.5: two levels with attention."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=in_channels,
        block_out_channels=(16, 24),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=2,
        cross_attention_dim=WIDTH,
        norm_num_groups=8,
    )


def unet_xl(in_channels: int = 4, *, ids: int = 6) -> UNet2DConditionModel:
    """Of XL: two levels, told `ids` numbers of the picture's size."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=in_channels,
        block_out_channels=(16, 32),
        layers_per_block=1,
        transformer_layers_per_block=(1, 2),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4),
        cross_attention_dim=2 * WIDTH,
        norm_num_groups=8,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=WIDTH + ids * 8,
    )


def controlnet(of: UNet2DConditionModel) -> ControlNetModel:
    """The control picture comes in at four times the size of the latents."""
    return ControlNetModel.from_unet(of, conditioning_embedding_out_channels=(8, 8, 8))


def strong(pipe: P, *names: str) -> P:
    """Double the weights of these parts, so that what they add is seen."""
    for name in names:
        for weight in getattr(pipe, name).parameters():
            weight.data *= 2
    return pipe
