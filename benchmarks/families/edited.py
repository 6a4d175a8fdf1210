"""Qwen-Image that edits a picture: the language model sees it, and its latents follow those made."""

from __future__ import annotations

from typing import Any

from diffusers import (
    AutoencoderKLQwenImage,
    DiffusionPipeline,
    QwenImageEditPipeline,
)
from transformers import Qwen2VLImageProcessor

from benchmarks.families import image_llm, words
from benchmarks.families.picture_processor import PictureProcessor
from benchmarks.families.pictures import picture
from benchmarks.families.toy import Toy
from benchmarks.families.weights import with_random_weights


def parts() -> dict[str, Any]:
    """Those of Qwen-Image; the calls make 1024 pixels of any picture, so a latent is 32 of them."""
    eye = Qwen2VLImageProcessor(min_pixels=56 * 56, max_pixels=56 * 56)
    made: dict[str, Any] = image_llm.qwen_image().components
    made |= {
        "vae": AutoencoderKLQwenImage(
            base_dim=2,
            z_dim=4,
            dim_mult=[1] * 6,
            num_res_blocks=1,
            temperal_downsample=[False] * 5,
            latents_mean=[0.0, 0.1, 0.2, 0.3],
            latents_std=[1.0, 1.1, 1.2, 1.3],
        ),
        "processor": PictureProcessor(eye, words.qwen()),
    }
    return made


def edit() -> DiffusionPipeline:
    """One picture."""
    return with_random_weights(QwenImageEditPipeline(**parts()), 381)


_SIZE = {"height": 128, "width": 128, "image": picture(64)}

TOYS = (Toy("QwenImageEditPipeline", edit, _SIZE),)
