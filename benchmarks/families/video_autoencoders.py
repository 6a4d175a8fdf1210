"""Autoencoders of videos."""

from __future__ import annotations

from diffusers import (
    AutoencoderKLAllegro,
    AutoencoderKLCogVideoX,
    AutoencoderKLHunyuanVideo,
    AutoencoderKLHunyuanVideo15,
    AutoencoderKLLTX2Video,
    AutoencoderKLLTXVideo,
    AutoencoderKLMagvit,
    AutoencoderKLMochi,
    AutoencoderKLWan,
)


def wan_vae() -> AutoencoderKLWan:
    """Of Wan 2.1: 16 channels, factor 8, and 4 in time."""
    return AutoencoderKLWan(base_dim=4, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1)


def ltx_vae() -> AutoencoderKLLTXVideo:
    """8 channels, factor 32 by patches of 4, and 8 in time."""
    once = (1, 1, 1, 1, 1)
    return AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=once,
        decoder_layers_per_block=once,
    )


def hunyuan_vae() -> AutoencoderKLHunyuanVideo:
    """4 channels, factor 8, and 4 in time."""
    return AutoencoderKLHunyuanVideo(
        latent_channels=4, block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4
    )


def cogvideox_vae() -> AutoencoderKLCogVideoX:
    """4 channels, factor 8, and 4 in time."""
    return AutoencoderKLCogVideoX(
        block_out_channels=(8, 8, 8, 8),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        temporal_compression_ratio=4,
        sample_height=32,
        sample_width=32,
    )


def mochi_vae() -> AutoencoderKLMochi:
    """12 channels, factor 8, and 6 in time; its norms have 32 groups."""
    return AutoencoderKLMochi(
        encoder_block_out_channels=(32, 32, 32, 32),
        decoder_block_out_channels=(32, 32, 32, 32),
        layers_per_block=(1, 1, 1, 1, 1),
    )


def allegro_vae() -> AutoencoderKLAllegro:
    """4 channels, factor 8, and 4 in time; decodes tiles only, which are whole videos here."""
    vae = AutoencoderKLAllegro(
        block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=2, sample_size=32
    )
    vae.enable_tiling()
    return vae


def hunyuan15_vae() -> AutoencoderKLHunyuanVideo15:
    """4 channels, factor 8, and 4 in time."""
    return AutoencoderKLHunyuanVideo15(
        latent_channels=4,
        block_out_channels=(16, 16, 16, 16),
        layers_per_block=1,
        spatial_compression_ratio=8,
    )


def magvit_vae() -> AutoencoderKLMagvit:
    """4 channels, factor 8, and 4 in time."""
    return AutoencoderKLMagvit(
        latent_channels=4, block_out_channels=[8, 8, 8, 8], layers_per_block=1, norm_num_groups=2
    )


def ltx2_vae() -> AutoencoderKLLTX2Video:
    """8 channels, factor 32 by patches of 4, and 8 in time."""
    return AutoencoderKLLTX2Video(
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 16, 32),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1),
        spatial_compression_ratio=32,
        temporal_compression_ratio=8,
    )
