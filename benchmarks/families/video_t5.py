"""Text to video, the prompt read by T5: CogVideoX, Mochi, Latte, Allegro."""

from __future__ import annotations

from diffusers import (
    AllegroPipeline,
    AllegroTransformer3DModel,
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    DDIMScheduler,
    EulerAncestralDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    LattePipeline,
    LatteTransformer3DModel,
    MochiPipeline,
    MochiTransformer3DModel,
)

from benchmarks.families import autoencoders, texts, words
from benchmarks.families.toy import Toy
from benchmarks.families.video_autoencoders import allegro_vae, cogvideox_vae, mochi_vae
from benchmarks.families.video_dit import SMALL
from benchmarks.families.weights import with_random_weights

HEADS = {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 2}
"""Two blocks, 32 wide."""

COGVIDEOX = {
    **HEADS,
    "in_channels": 4,
    "out_channels": 4,
    "time_embed_dim": 16,
    "text_embed_dim": texts.WIDTH,
    "sample_width": 4,
    "sample_height": 4,
    "sample_frames": 5,
    "max_text_seq_length": 32,
}
"""For two latent frames of 4x4."""

SNR = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "clip_sample": False,
    "set_alpha_to_one": True,
}
"""The schedule of CogVideoX."""


def cogvideox() -> CogVideoXPipeline:
    """CogVideoX 2B: positions are added, DDIM."""
    pipe = CogVideoXPipeline(
        tokenizer=words.t5(),
        text_encoder=texts.t5_encoder(),
        vae=cogvideox_vae(),
        transformer=CogVideoXTransformer3DModel(**COGVIDEOX),
        scheduler=CogVideoXDDIMScheduler(**SNR, snr_shift_scale=3.0),
    )
    return with_random_weights(pipe, 111)


def cogvideox_rotary() -> CogVideoXPipeline:
    """CogVideoX 5B: rotary positions, a solver of second order that adds noise, a scale per step."""
    pipe = CogVideoXPipeline(
        tokenizer=words.t5(),
        text_encoder=texts.t5_encoder(),
        vae=cogvideox_vae(),
        transformer=CogVideoXTransformer3DModel(**COGVIDEOX, use_rotary_positional_embeddings=True),
        scheduler=CogVideoXDPMScheduler(**SNR, snr_shift_scale=1.0),
    )
    return with_random_weights(pipe, 112)


def mochi() -> MochiPipeline:
    """Mochi 1: the time runs the other way."""
    pipe = MochiPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
        vae=mochi_vae(),
        text_encoder=texts.t5_encoder(),
        tokenizer=words.t5(),
        transformer=MochiTransformer3DModel(
            **HEADS,
            in_channels=12,
            pooled_projection_dim=32,
            text_embed_dim=texts.WIDTH,
            time_embed_dim=16,
            max_sequence_length=32,
        ),
    )
    return with_random_weights(pipe, 113)


def allegro() -> AllegroPipeline:
    """Allegro: batched halves, rotary positions."""
    pipe = AllegroPipeline(
        tokenizer=words.t5(),
        text_encoder=texts.t5_encoder(),
        vae=allegro_vae(),
        transformer=AllegroTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=24,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            cross_attention_dim=48,
            sample_width=4,
            sample_height=4,
            sample_frames=6,
            caption_channels=texts.WIDTH,
        ),
        scheduler=EulerAncestralDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
        ),
    )
    return with_random_weights(pipe, 114)


def latte() -> LattePipeline:
    """Latte: blocks over space and blocks over time in turn; predicts variances too."""
    pipe = LattePipeline(
        tokenizer=words.t5(),
        text_encoder=texts.t5_encoder(),
        vae=autoencoders.kl(levels=3),
        transformer=LatteTransformer3DModel(
            **HEADS,
            in_channels=4,
            out_channels=8,
            cross_attention_dim=32,
            sample_size=8,
            patch_size=2,
            activation_fn="gelu-approximate",
            attention_bias=True,
            norm_type="ada_norm_single",
            norm_elementwise_affine=False,
            caption_channels=texts.WIDTH,
            video_length=2,
        ),
        scheduler=DDIMScheduler(
            beta_start=0.0001, beta_end=0.02, beta_schedule="linear", clip_sample=False
        ),
    )
    return with_random_weights(pipe, 115)


SHORT = {**SMALL, "max_sequence_length": 32}
TOYS = (
    Toy("CogVideoXPipeline", cogvideox, SHORT),
    Toy("CogVideoXPipeline", cogvideox_rotary, {**SHORT, "use_dynamic_cfg": True}),
    Toy("MochiPipeline", mochi, {**SHORT, "num_frames": 7}),
    # The autoencoder decodes nothing shorter.
    Toy("AllegroPipeline", allegro, {**SHORT, "num_frames": 24, "clean_caption": False}),
    Toy(
        "LattePipeline",
        latte,
        {
            "height": 32,
            "width": 32,
            "video_length": 2,
            "clean_caption": False,
            "mask_feature": False,
        },
    ),
)
"""The name of the function tells two of one class apart."""
