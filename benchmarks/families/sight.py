"""Encoders that look at pictures."""

from __future__ import annotations

from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    SiglipImageProcessor,
    SiglipVisionConfig,
    SiglipVisionModel,
)

WIDTH = 32
SIDE = 28
"""Pixels that an encoder sees: four patches."""

_SIZES = {
    "hidden_size": WIDTH,
    "intermediate_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": 14,
}


def clip_vision() -> CLIPVisionModel:
    """Two layers."""
    return CLIPVisionModel(CLIPVisionConfig(**_SIZES))


def clip_vision_projected(side: int = SIDE, patch: int = 14) -> CLIPVisionModelWithProjection:
    """Two layers and a projection."""
    sizes = {**_SIZES, "image_size": side, "patch_size": patch}
    return CLIPVisionModelWithProjection(CLIPVisionConfig(**sizes, projection_dim=WIDTH))


def siglip_vision() -> SiglipVisionModel:
    """Two layers."""
    return SiglipVisionModel(SiglipVisionConfig(**_SIZES))


def clip_pictures() -> CLIPImageProcessor:
    """Resizes and normalises."""
    return CLIPImageProcessor(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    )


def siglip_pictures() -> SiglipImageProcessor:
    """Resizes and normalises."""
    return SiglipImageProcessor(size={"height": SIDE, "width": SIDE})
