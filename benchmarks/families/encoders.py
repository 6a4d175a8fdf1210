"""Encoders of texts and pictures that are no language models: CLIP and BERT."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffusers.pipelines.kandinsky.text_encoder import MCLIPConfig, MultilingualCLIP
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import (
    LDMBertConfig,
    LDMBertModel,
)
from transformers import (
    BertConfig,
    BertModel,
    CLIPImageProcessorPil,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    Siglip2VisionConfig,
    Siglip2VisionModel,
)

from benchmarks.families.texts import WIDTH
from benchmarks.families.words import bert, xlm_roberta

if TYPE_CHECKING:
    from transformers import CLIPTokenizer


def bert_encoder() -> BertModel:
    """Two layers."""
    config = BertConfig(
        vocab_size=len(bert()),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=80,
    )
    return BertModel(config)


def ldm_bert() -> LDMBertModel:
    """Two layers."""
    config = LDMBertConfig(
        vocab_size=len(bert()),
        encoder_layers=2,
        encoder_ffn_dim=2 * WIDTH,
        encoder_attention_heads=2,
        head_dim=WIDTH // 2,
        d_model=WIDTH,
    )
    return LDMBertModel(config)


def clip_sizes(words: CLIPTokenizer) -> CLIPTextConfig:
    """As long as the tokenizer's texts."""
    return CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=words.model_max_length,
        projection_dim=WIDTH,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )


def clip(words: CLIPTokenizer) -> CLIPTextModel:
    """Two layers."""
    return CLIPTextModel(clip_sizes(words))


def clip_projected(words: CLIPTokenizer) -> CLIPTextModelWithProjection:
    """Two layers and a projection."""
    return CLIPTextModelWithProjection(clip_sizes(words))


def clip_vision() -> CLIPVisionModelWithProjection:
    """CLIP's eye, two layers."""
    config = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=16,
        projection_dim=WIDTH,
    )
    return CLIPVisionModelWithProjection(config)


def clip_pictures() -> CLIPImageProcessorPil:
    """What `clip_vision` sees."""
    size = {"height": 32, "width": 32}
    return CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=size)


def multilingual_clip() -> MultilingualCLIP:
    """Two layers."""
    config = MCLIPConfig(
        transformerDimSize=WIDTH,
        imageDimSize=WIDTH,
        vocab_size=len(xlm_roberta()),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=512,
        pad_token_id=1,
    )
    return MultilingualCLIP(config)


def siglip2() -> Siglip2VisionModel:
    """SigLIP's eye, two layers."""
    config = Siglip2VisionConfig(
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_patches=16,
        patch_size=16,
    )
    return Siglip2VisionModel(config)
