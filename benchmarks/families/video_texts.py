"""Tokenizers and text encoders of the pipelines that make videos."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    LlamaConfig,
    LlamaModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
    UMT5Config,
    UMT5EncoderModel,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

WIDTH = 32
"""Of all text encoders."""

_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,-"
_T5 = {"vocab_size": 80, "d_model": WIDTH, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}


def t5_tokenizer() -> T5Tokenizer:
    """Pieces of one letter, with the word boundary that such tokenizers have."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -1.0)]
    vocabulary = [*pieces, *((letter, -2.0 - i / 100) for i, letter in enumerate(_LETTERS))]
    return T5Tokenizer(vocab=vocabulary, extra_ids=0, model_max_length=512)


def t5_encoder() -> T5EncoderModel:
    """Two layers."""
    return T5EncoderModel(T5Config(**_T5))


def umt5_encoder() -> UMT5EncoderModel:
    """Two layers, each with a table of relative positions."""
    return UMT5EncoderModel(UMT5Config(**_T5))


def clip_tokenizer() -> CLIPTokenizer:
    """Pieces of one letter, 77 at most."""
    pieces = [*_LETTERS, *(f"{letter}</w>" for letter in _LETTERS)]
    vocabulary = {piece: i for i, piece in enumerate([*pieces, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)


def clip_config(words: CLIPTokenizer) -> CLIPTextConfig:
    """Two layers."""
    return CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=77,
        projection_dim=WIDTH,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )


def chat_tokenizer(
    *templates: str, marks: Iterable[str], begin: str = ""
) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer to which each word of the templates is one token, as to those of the real size.

    Pipelines cut a stated number of tokens off the front: with smaller pieces the prompt would not be reached.
    """
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        special_tokens=["<|endoftext|>", *marks],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(templates, trainer)
    if begin:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", special_tokens=[(begin, backend.token_to_id(begin))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        padding_side="right",
        model_max_length=1024,
    )


def llama(words: PreTrainedTokenizerFast) -> LlamaModel:
    """Four layers, of which pipelines leave out the last two."""
    return LlamaModel(
        LlamaConfig(
            vocab_size=len(words),
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=4,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=1024,
            pad_token_id=words.pad_token_id,
        )
    )


def qwen_vl(words: PreTrainedTokenizerFast) -> Qwen2_5_VLForConditionalGeneration:
    """Two layers of language model and one of vision."""
    text = {
        "vocab_size": len(words),
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 2048,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e6,
            "mrope_section": [2, 3, 3],
        },
    }
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": WIDTH,
        "fullatt_block_indexes": [0],
    }
    marks = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    start, end, image, video = (words.convert_tokens_to_ids(mark) for mark in marks)
    return Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(
            text_config=text,
            vision_config=vision,
            vision_start_token_id=start,
            vision_end_token_id=end,
            image_token_id=image,
            video_token_id=video,
        )
    )


QWEN_MARKS = (
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
"""Special tokens of Qwen 2.5."""

LLAMA_MARKS = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
"""Special tokens of Llama 3."""


def clip_encoder(words: CLIPTokenizer) -> CLIPTextModel:
    """Without a projection."""
    return CLIPTextModel(clip_config(words))


def clip_with_projection(words: CLIPTokenizer) -> CLIPTextModelWithProjection:
    """The second encoder of XL."""
    return CLIPTextModelWithProjection(clip_config(words))
