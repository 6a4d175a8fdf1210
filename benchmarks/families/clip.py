"""CLIP's text encoders, which read 77 tokens."""

from __future__ import annotations

from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

WIDTH = 32
LENGTH = 77
_CHARACTERS = [chr(code) for code in range(33, 127)]


def clip_tokenizer() -> CLIPTokenizer:
    """Tokens of one letter."""
    pieces = [*_CHARACTERS, *(f"{letter}</w>" for letter in _CHARACTERS)]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=LENGTH)


def clip_config(width: int = WIDTH) -> CLIPTextConfig:
    """Two layers."""
    words = clip_tokenizer()
    return CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        projection_dim=width,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )


def clip_encoder() -> CLIPTextModel:
    """Of Stable Diffusion 1.5, and the first of XL."""
    return CLIPTextModel(clip_config())


def clip_projected(width: int = WIDTH) -> CLIPTextModelWithProjection:
    """The second of XL, and those of Stable Diffusion 3."""
    return CLIPTextModelWithProjection(clip_config(width))
