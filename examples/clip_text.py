"""CLIP's text side for small worlds: a tokenizer learned from given words, and an encoder's size."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTokenizer

if TYPE_CHECKING:
    from collections.abc import Iterable

LENGTH = 16
"""Tokens of a text, with its start and its end."""


def tokenizer(words: Iterable[str]) -> CLIPTokenizer:
    """A CLIP tokenizer in which each of these words is one token, as is each character."""
    backend = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=20_000,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    backend.train_from_iterator(sorted(set(words)), trainer)
    merges = [tuple(m) for m in json.loads(backend.to_str())["model"]["merges"]]
    pieces = {*alphabet, *(f"{c}</w>" for c in alphabet), *("".join(m) for m in merges)}
    # The trainer orders equally frequent merges differently in each run; sorting keeps the ids.
    ordered = [*sorted(pieces), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: i for i, piece in enumerate(ordered)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=LENGTH)


def encoder_config(
    words: CLIPTokenizer, *, width: int, layers: int, feed_forward: int
) -> CLIPTextConfig:
    """An encoder of four heads for the tokens of `words`; `feed_forward` is the width inside a layer."""
    return CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=feed_forward,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        projection_dim=width,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
