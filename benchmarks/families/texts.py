"""Text encoders of two layers and little width, for the tokenizers of `words`."""

from __future__ import annotations

from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig, ChatGLMModel
from transformers import (
    Gemma2Config,
    Gemma2Model,
    GemmaConfig,
    GemmaModel,
    GlmConfig,
    GlmModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    Mistral3Model,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLModel,
    SmolLM3Config,
    SmolLM3ForCausalLM,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

from benchmarks.families.words import QWEN_MARKS, byte_pairs, gemma, t5

WIDTH = 32
"""Of every text encoder here but CLIP's."""

VOCABULARY = 1280
"""Rows of the table of tokens: enough for each of the byte-level tokenizers."""

DECODER = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": WIDTH // 2,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
"""What the language models have in common."""

VISION = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}


def qwen_mark(mark: str) -> int:
    """Number of a special token of `words.qwen`."""
    return len(byte_pairs()[0]) + QWEN_MARKS.index(mark)


def qwen25_vl(layers: int = 2) -> Qwen2_5_VLForConditionalGeneration:
    """With an eye of one layer."""
    text = {k: v for k, v in DECODER.items() if k != "head_dim"}
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e6}
    config = Qwen2_5_VLConfig(
        text_config={**text, "num_hidden_layers": layers, "rope_scaling": rope},
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": WIDTH,
            "fullatt_block_indexes": [0],
        },
        image_token_id=qwen_mark("<|image_pad|>"),
        video_token_id=qwen_mark("<|video_pad|>"),
        vision_start_token_id=qwen_mark("<|vision_start|>"),
        vision_end_token_id=qwen_mark("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    return Qwen2_5_VLForConditionalGeneration(config)


def qwen3(layers: int = 3) -> Qwen3ForCausalLM:
    """Pipelines read its inner layers."""
    return Qwen3ForCausalLM(Qwen3Config(**DECODER, num_hidden_layers=layers))


def qwen3_inner(layers: int = 3) -> Qwen3Model:
    """Without the output layer."""
    return Qwen3Model(Qwen3Config(**DECODER, num_hidden_layers=layers))


def qwen3_vl_sizes(layers: int) -> Qwen3VLConfig:
    """With an eye of one layer."""
    rope = {"rope_type": "default", "mrope_section": [4, 2, 2], "rope_theta": 1e6}
    return Qwen3VLConfig(
        text_config={**DECODER, "num_hidden_layers": layers, "rope_scaling": rope},
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": WIDTH,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0],
        },
        image_token_id=qwen_mark("<|image_pad|>"),
        video_token_id=qwen_mark("<|video_pad|>"),
        vision_start_token_id=qwen_mark("<|vision_start|>"),
        vision_end_token_id=qwen_mark("<|vision_end|>"),
        tie_word_embeddings=True,
    )


def qwen3_vl(layers: int = 3) -> Qwen3VLForConditionalGeneration:
    """Of Qwen3-VL."""
    return Qwen3VLForConditionalGeneration(qwen3_vl_sizes(layers))


def qwen3_vl_inner(layers: int = 3) -> Qwen3VLModel:
    """Without the output layer."""
    return Qwen3VLModel(qwen3_vl_sizes(layers))


def mistral3_sizes(layers: int) -> Mistral3Config:
    """With an eye of one layer."""
    return Mistral3Config(
        text_config={"model_type": "mistral", **DECODER, "num_hidden_layers": layers},
        vision_config={
            "model_type": "pixtral",
            **VISION,
            "num_hidden_layers": 1,
            "image_size": 28,
            "patch_size": 14,
            "head_dim": 8,
        },
        image_token_index=VOCABULARY - 1,
    )


def mistral3(layers: int = 3) -> Mistral3ForConditionalGeneration:
    """Of Mistral Small 3."""
    return Mistral3ForConditionalGeneration(mistral3_sizes(layers))


def mistral3_inner(layers: int = 2) -> Mistral3Model:
    """Without the output layer."""
    return Mistral3Model(mistral3_sizes(layers))


def smol3(layers: int = 2) -> SmolLM3ForCausalLM:
    """Of SmolLM 3; the pipeline asks for token 128000, so its rows are many and short."""
    sizes = {**DECODER, "vocab_size": 128001, "hidden_size": 8, "head_dim": 4}
    return SmolLM3ForCausalLM(SmolLM3Config(**sizes, num_hidden_layers=layers))


def llama(layers: int = 2) -> LlamaModel:
    """Of Llama 3."""
    return LlamaModel(LlamaConfig(**DECODER, num_hidden_layers=layers))


def llama_speaking(layers: int = 2) -> LlamaForCausalLM:
    """Of Llama 3, with its output layer."""
    return LlamaForCausalLM(LlamaConfig(**DECODER, num_hidden_layers=layers))


def glm(layers: int = 2) -> GlmModel:
    """Of GLM 4."""
    return GlmModel(GlmConfig(**DECODER, num_hidden_layers=layers))


def gemma2(layers: int = 2) -> Gemma2Model:
    """Of Gemma 2; its second layer sees everything, the first a window."""
    sizes = {**DECODER, "vocab_size": len(gemma()), "bos_token_id": 2, "eos_token_id": 1}
    return Gemma2Model(Gemma2Config(**sizes, num_hidden_layers=layers, query_pre_attn_scalar=16))


def t5_sizes(vocabulary: int) -> dict[str, int]:
    """Two layers."""
    return {
        "vocab_size": vocabulary,
        "d_model": WIDTH,
        "d_kv": WIDTH // 2,
        "d_ff": 2 * WIDTH,
        "num_layers": 2,
        "num_heads": 2,
    }


def t5_encoder() -> T5EncoderModel:
    """Of T5 1.1: gated layers."""
    sizes = t5_sizes(len(t5()))
    return T5EncoderModel(T5Config(**sizes, feed_forward_proj="gated-gelu"))


def umt5_encoder() -> UMT5EncoderModel:
    """A table of relative positions in each layer."""
    return UMT5EncoderModel(UMT5Config(**t5_sizes(len(t5()))))


def byt5_encoder() -> T5EncoderModel:
    """Reads bytes."""
    return T5EncoderModel(T5Config(**t5_sizes(384), feed_forward_proj="gated-gelu"))


def gemma1(layers: int = 2) -> GemmaModel:
    """Of Gemma."""
    sizes = {**DECODER, "vocab_size": len(gemma()), "bos_token_id": 2, "eos_token_id": 1}
    return GemmaModel(GemmaConfig(**sizes, num_hidden_layers=layers))


def chat_glm(layers: int = 2) -> ChatGLMModel:
    """Of ChatGLM 3."""
    config = ChatGLMConfig(
        num_layers=layers,
        padded_vocab_size=320,
        hidden_size=WIDTH,
        ffn_hidden_size=2 * WIDTH,
        kv_channels=WIDTH // 2,
        num_attention_heads=2,
        seq_length=256,
        multi_query_attention=True,
        add_qkv_bias=True,
        original_rope=True,
    )
    return ChatGLMModel(config)
