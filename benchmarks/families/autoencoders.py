"""Autoencoders of few channels."""

from __future__ import annotations

from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLHunyuanImage,
    AutoencoderKLQwenImage,
    AutoencoderKLWan,
    AutoencoderTiny,
    VQModel,
)


def kl(channels: int = 4, *, levels: int = 2, shift: float | None = None) -> AutoencoderKL:
    """Of factor 2 per level after the first."""
    return AutoencoderKL(
        block_out_channels=(8,) * levels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=16,
        shift_factor=shift,
    )


def flux2(channels: int = 4) -> AutoencoderKLFlux2:
    """Of factor 2; its latents are normalised as patches of 2x2."""
    return AutoencoderKLFlux2(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=16,
        layers_per_block=1,
    )


def qwen_image(channels: int = 4) -> AutoencoderKLQwenImage:
    """Of factor 2, over frames."""
    return AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=channels,
        dim_mult=[1, 2],
        num_res_blocks=1,
        temperal_downsample=[False],
        latents_mean=[0.1 * i for i in range(channels)],
        latents_std=[1.0 + 0.1 * i for i in range(channels)],
    )


def deep_compression(channels: int = 4) -> AutoencoderDC:
    """Of factor 4, the last level with linear attention."""
    widths = (8, 8, 16)
    blocks = ("ResBlock", "ResBlock", "EfficientViTBlock")
    return AutoencoderDC(
        latent_channels=channels,
        attention_head_dim=8,
        encoder_block_types=blocks,
        decoder_block_types=blocks,
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        encoder_layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        encoder_qkv_multiscales=((), (), (5,)),
        decoder_qkv_multiscales=((), (), (5,)),
        scaling_factor=0.41407,
    )


def hunyuan_image(channels: int = 4) -> AutoencoderKLHunyuanImage:
    """Of factor 2."""
    return AutoencoderKLHunyuanImage(
        in_channels=3,
        out_channels=3,
        latent_channels=channels,
        block_out_channels=(32, 64),
        layers_per_block=1,
        spatial_compression_ratio=2,
        sample_size=16,
        scaling_factor=0.75289,
    )


def movq(channels: int = 4) -> VQModel:
    """Of factor 8; its decoder is normalised by the latents themselves."""
    return VQModel(
        block_out_channels=(32, 32, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 3 + ("AttnDownEncoderBlock2D",),
        up_block_types=("AttnUpDecoderBlock2D",) + ("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=channels,
        vq_embed_dim=channels,
        num_vq_embeddings=16,
        norm_num_groups=4,
        norm_type="spatial",
    )


def tiny(channels: int = 4) -> AutoencoderTiny:
    """Of factor 2."""
    return AutoencoderTiny(
        latent_channels=channels,
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    )


def wan(channels: int = 4, *, levels: int = 5) -> AutoencoderKLWan:
    """Of factor 2 per level after the first, over frames."""
    return AutoencoderKLWan(
        base_dim=8,
        z_dim=channels,
        dim_mult=[1] * levels,
        num_res_blocks=1,
        temperal_downsample=[False] * (levels - 1),
        latents_mean=[0.1 * i for i in range(channels)],
        latents_std=[1.0 + 0.1 * i for i in range(channels)],
    )
