"""Encoders of pictures, beside the one in `encoders`."""

from __future__ import annotations

from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    SiglipImageProcessor,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from benchmarks.families.texts import WIDTH

SIDE = 32
"""Pixels that an encoder sees: four patches."""

_SIZES = {
    "hidden_size": WIDTH,
    "intermediate_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": 16,
}


def clip_vision() -> CLIPVisionModel:
    """Two layers."""
    return CLIPVisionModel(CLIPVisionConfig(**_SIZES))


def clip_vision_224() -> CLIPVisionModelWithProjection:
    """Two layers and a projection, for pictures of 224 pixels."""
    sizes = {**_SIZES, "image_size": 224, "patch_size": 56}
    return CLIPVisionModelWithProjection(CLIPVisionConfig(**sizes, projection_dim=WIDTH))


def siglip_vision() -> SiglipVisionModel:
    """Two layers."""
    return SiglipVisionModel(SiglipVisionConfig(**_SIZES))


def siglip_pictures() -> SiglipImageProcessor:
    """Resizes and normalises."""
    return SiglipImageProcessor(size={"height": SIDE, "width": SIDE})
