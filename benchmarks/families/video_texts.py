"""Text encoders that only pipelines of videos have."""

from __future__ import annotations

from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2_5_VLTextConfig,
    Qwen2_5_VLTextModel,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)
from transformers.models.t5gemma2.configuration_t5gemma2 import T5Gemma2EncoderConfig
from transformers.models.t5gemma2.modeling_t5gemma2 import T5Gemma2Encoder

from benchmarks.families import texts, words

SIGHT = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "image_size": 28,
    "patch_size": 14,
}
"""An eye of one layer."""

ROPE = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e6}
TEXT = {k: v for k, v in texts.DECODER.items() if k != "head_dim"}


def qwen25_text(layers: int = 2) -> Qwen2_5_VLTextModel:
    """Qwen2.5-VL without its eye."""
    return Qwen2_5_VLTextModel(
        Qwen2_5_VLTextConfig(**TEXT, num_hidden_layers=layers, rope_scaling=ROPE)
    )


def qwen2_vl() -> Qwen2VLForConditionalGeneration:
    """With an eye of one layer."""
    config = Qwen2VLConfig(
        text_config={**TEXT, "num_hidden_layers": 2, "rope_scaling": ROPE},
        vision_config={"depth": 1, "embed_dim": 16, "num_heads": 2, "hidden_size": texts.WIDTH},
        image_token_id=texts.qwen_mark("<|image_pad|>"),
        video_token_id=texts.qwen_mark("<|video_pad|>"),
        vision_start_token_id=texts.qwen_mark("<|vision_start|>"),
        vision_end_token_id=texts.qwen_mark("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    return Qwen2VLForConditionalGeneration(config)


def gemma3() -> Gemma3ForConditionalGeneration:
    """Two layers, the first over a window."""
    config = Gemma3Config(
        text_config={**_gemma(), "num_hidden_layers": 2},
        vision_config={"model_type": "siglip_vision_model", **SIGHT},
        mm_tokens_per_image=4,
        image_token_index=3,
    )
    return Gemma3ForConditionalGeneration(config)


def t5_gemma2() -> T5Gemma2Encoder:
    """Two layers that see the whole text."""
    config = T5Gemma2EncoderConfig(
        text_config={**_gemma(), "num_hidden_layers": 2, "dropout_rate": 0.0},
        vision_config={"model_type": "siglip_vision_model", **SIGHT},
        mm_tokens_per_image=4,
        boi_token_index=3,
        eoi_token_index=4,
        image_token_index=4,
    )
    return T5Gemma2Encoder(config, eoi_token_index=4)


def llava(image_token: int) -> LlavaForConditionalGeneration:
    """Four layers of Llama and an eye that makes 576 tokens of a picture."""
    config = LlavaConfig(
        text_config={"model_type": "llama", **texts.DECODER, "num_hidden_layers": 4},
        vision_config={
            "model_type": "clip_vision_model",
            **SIGHT,
            "num_hidden_layers": 2,
            "image_size": 48,
            "patch_size": 2,
        },
        image_token_index=image_token,
        pad_token_id=0,
    )
    return LlavaForConditionalGeneration(config)


def _gemma() -> dict[str, object]:
    sizes = {**texts.DECODER, "vocab_size": len(words.gemma())}
    return {**sizes, "bos_token_id": 2, "eos_token_id": 1, "query_pre_attn_scalar": 16}
