"""The architectures of shapes-sd and shapes-dit, untrained."""

from __future__ import annotations

from itertools import pairwise

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTTransformer2DModel, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from examples import clip_text
from examples.shapes.pictures import ATTRIBUTES, SIZE, caption

LATENT_CHANNELS = 4
LATENT_SIZE = SIZE // 4
TEXT_WIDTH = 64
# DiTPipeline asks for class 1000 when it wants no class, so the table needs 1000 rows and one more.
DIT_CLASSES = 1000


class JudgeNet(nn.Module):
    """Small CNN: pictures `[N, 3, 64, 64]` in 0..1 -> features `[N, 64]` and logits per attribute."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 16, 32, 64, 64)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [
                nn.Conv2d(before, after, 3, stride=2, padding=1),
                nn.GroupNorm(8, after),
                nn.SiLU(),
                nn.Conv2d(after, after, 3, padding=1),
                nn.SiLU(),
            ]
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 16, 64), nn.SiLU())
        self.heads = nn.ModuleDict({k: nn.Linear(64, len(v)) for k, v in ATTRIBUTES.items()})

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return `features` and one logits tensor `[N, K]` per attribute."""
        features = self.body(images * 2 - 1)
        return {"features": features, **{k: head(features) for k, head in self.heads.items()}}


def autoencoder() -> AutoencoderKL:
    """Pictures `[N, 3, 64, 64]` <-> latents `[N, 4, 16, 16]`."""
    return AutoencoderKL(
        block_out_channels=(16, 32, 40),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=SIZE,
    )


def unet() -> UNet2DConditionModel:
    """The stages and block names of SD-1.5 at a fifteenth of its width."""
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        block_out_channels=(24, 48, 72, 72),
        layers_per_block=2,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        attention_head_dim=(1, 2, 3, 3),
        cross_attention_dim=TEXT_WIDTH,
        norm_num_groups=8,
    )


def transformer() -> DiTTransformer2DModel:
    """A DiT of 10 blocks over 64 patches, initialised as in the paper (Peebles and Xie 2023, 3.2).

    The library leaves torch's defaults, with which the blocks do not start as identities; the same
    training then ends with a quarter of the shapes wrong.
    """
    net = DiTTransformer2DModel(
        num_attention_heads=4,
        attention_head_dim=24,
        num_layers=10,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        sample_size=LATENT_SIZE,
        patch_size=2,
        num_embeds_ada_norm=DIT_CLASSES,
    )
    for module in net.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    for block in net.transformer_blocks:
        embedding = block.norm1.emb
        for table in (
            embedding.class_embedder.embedding_table,
            embedding.timestep_embedder.linear_1,
            embedding.timestep_embedder.linear_2,
        ):
            nn.init.normal_(table.weight, std=0.02)
    for last in (*(b.norm1.linear for b in net.transformer_blocks), net.proj_out_1, net.proj_out_2):
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
    return net


def tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer in which each word of our captions is one token."""
    attributes = [ATTRIBUTES[k] for k in ("size", "colour", "shape", "place", "background")]
    words = {w for options in attributes for w in options}
    return clip_text.tokenizer(words | set(caption(*("" for _ in attributes)).split()))


def text_encoder(words: CLIPTokenizer) -> CLIPTextModel:
    """A two-layer CLIP text encoder, trained together with the U-Net."""
    return CLIPTextModel(
        clip_text.encoder_config(words, width=TEXT_WIDTH, layers=2, feed_forward=2 * TEXT_WIDTH)
    )


def sd_scheduler() -> DDIMScheduler:
    """The schedule of SD-1.5."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def dit_scheduler() -> DDIMScheduler:
    """The schedule of DiT-XL/2, with v-prediction (Salimans and Ho 2022).

    A transformer normalises what it reads, so copying its noisy input to predict the noise is the
    hardest thing to ask of it; at the noisiest steps v is the picture instead.
    """
    return DDIMScheduler(
        beta_start=0.0001,
        beta_end=0.02,
        beta_schedule="linear",
        clip_sample=False,
        prediction_type="v_prediction",
    )
