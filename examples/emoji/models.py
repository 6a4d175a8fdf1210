"""The architectures, untrained."""

from __future__ import annotations

from itertools import pairwise

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from torch import nn
from transformers import (
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from examples.clip_text import encoder_config
from examples.emoji.artwork import SIZE

LATENT_CHANNELS = 8
LATENT_SIZE = SIZE // 4
T5_LENGTH = 256
TEXT_WIDTH = 128
SHIFT = 2.0
"""Of the sampler's noise levels towards the noisy end, as in SD3 (Esser et al. 2024, 5.3.2)."""
GUIDANCE = 5.0
"""The scale at which the judge reads the most pictures right."""
LAST_LEVEL = 0.3
"""Noise level from which the student's last step leads to none."""


def autoencoder() -> AutoencoderKL:
    """Pictures `[N, 3, 64, 64]` <-> latents `[N, 8, 16, 16]`."""
    return AutoencoderKL(
        block_out_channels=(16, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=SIZE,
        mid_block_add_attention=False,
    )


class JudgeNet(nn.Module):
    """CNN: pictures `[N, 3, 64, 64]` in 0..1 -> features `[N, 128]` and logits per attribute."""

    def __init__(self, words: dict[str, tuple[str, ...]]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in pairwise((3, 24, 48, 96, 128)):
            layers += [
                nn.Conv2d(before, after, 3, stride=2, padding=1),
                nn.GroupNorm(8, after),
                nn.SiLU(),
                nn.Conv2d(after, after, 3, padding=1),
                nn.GroupNorm(8, after),
                nn.SiLU(),
            ]
        width = 128
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * 128, width))
        self.heads = nn.ModuleDict({k: nn.Linear(width, len(v)) for k, v in words.items()})

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return `features` and one logits tensor `[N, K]` per attribute."""
        features = self.body(images * 2 - 1)
        return {"features": features, **{k: head(features) for k, head in self.heads.items()}}


def text_encoder(words: CLIPTokenizer) -> CLIPTextModelWithProjection:
    """A small CLIP text encoder; the pipeline reads its last layer but one, and its projection."""
    return CLIPTextModelWithProjection(
        encoder_config(words, width=TEXT_WIDTH, layers=3, feed_forward=4 * TEXT_WIDTH)
    )


def transformer() -> SD3Transformer2DModel:
    """Joint blocks over 64 patches and the text, initialised as a DiT (Peebles and Xie 2023, 3.2)."""
    net = SD3Transformer2DModel(
        sample_size=LATENT_SIZE,
        patch_size=2,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=6,
        attention_head_dim=64,
        num_attention_heads=3,
        joint_attention_dim=2 * TEXT_WIDTH,
        caption_projection_dim=192,
        pooled_projection_dim=2 * TEXT_WIDTH,
        pos_embed_max_size=LATENT_SIZE // 2,
        qk_norm="rms_norm",
    )
    for module in net.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    for name, module in net.named_modules():
        if isinstance(module, nn.Linear) and ("norm" in name or name == "proj_out"):
            nn.init.zeros_(module.weight)
    for part in (net.time_text_embed.timestep_embedder, net.time_text_embed.text_embedder):
        nn.init.normal_(part.linear_1.weight, std=0.02)
        nn.init.normal_(part.linear_2.weight, std=0.02)
    return net


def scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Straight paths from noise to picture."""
    return FlowMatchEulerDiscreteScheduler(shift=SHIFT)


def student_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """For few steps: plainly spaced levels would spend the last step on almost no noise."""
    return FlowMatchEulerDiscreteScheduler(shift=SHIFT, shift_terminal=LAST_LEVEL)


def empty_t5_tokenizer() -> T5Tokenizer:
    """Knows no word."""
    return T5Tokenizer(
        vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -1.0)],
        extra_ids=0,
        model_max_length=T5_LENGTH,
    )


def empty_t5() -> T5EncoderModel:
    """Turns every text into zeros, as the pipeline does of itself without a T5.

    SD3 is often run without its T5, but a pipeline that has none cannot be opened without saying so.
    """
    width = 2 * TEXT_WIDTH
    config = T5Config(vocab_size=4, d_model=width, d_kv=1, d_ff=1, num_layers=0, num_heads=1)
    encoder = T5EncoderModel(config)
    nn.init.zeros_(encoder.shared.weight)
    return encoder
