"""Autoencoders of videos."""

from __future__ import annotations

from diffusers import AutoencoderKLHunyuanVideo, AutoencoderKLLTXVideo, AutoencoderKLWan


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
