"""The architectures of shapes-sd and shapes-dit, untrained."""

from __future__ import annotations

import json
from itertools import pairwise

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTTransformer2DModel, UNet2DConditionModel
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from examples.shapes.pictures import ATTRIBUTES, SIZE, caption

LATENT_CHANNELS = 4
LATENT_SIZE = SIZE // 4
TEXT_LENGTH = 16
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
    """A CLIP tokenizer whose merges are learned from the words of our captions."""
    backend = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    attributes = [ATTRIBUTES[k] for k in ("size", "colour", "shape", "place", "background")]
    words = {w for options in attributes for w in options}
    words |= set(caption(*("" for _ in attributes)).split())
    backend.train_from_iterator(sorted(words), trainer)
    learned = backend.get_vocab()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [tuple(m) for m in json.loads(backend.to_str())["model"]["merges"]]
    pieces = [*alphabet, *(f"{c}</w>" for c in alphabet), *("".join(m) for m in merges)]
    assert set(learned) <= set(pieces)
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=TEXT_LENGTH)


def text_encoder(words: CLIPTokenizer) -> CLIPTextModel:
    """A two-layer CLIP text encoder, trained together with the U-Net."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=TEXT_WIDTH,
            intermediate_size=2 * TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TEXT_LENGTH,
            projection_dim=TEXT_WIDTH,
            bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id,
            pad_token_id=words.pad_token_id,
        )
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
