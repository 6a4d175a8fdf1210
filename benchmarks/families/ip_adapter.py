"""IP-Adapter files with random weights (Ye et al. 2023), and a pipeline they fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from safetensors.torch import save_file

from benchmarks.families import encoders
from benchmarks.families.pictured_sd import parts
from benchmarks.families.weights import with_random_weights

if TYPE_CHECKING:
    from pathlib import Path

TOKENS = 4
"""Of a picture, beside those of the text."""


def seeing() -> DiffusionPipeline:
    """Stable Diffusion 1.5 with an encoder of pictures: `load_ip_adapter` puts the file into it."""
    built = {**parts(), "feature_extractor": encoders.clip_pictures()}
    eye = encoders.clip_vision()
    return with_random_weights(StableDiffusionPipeline(**built, image_encoder=eye), 321)


def write_ip_adapter(pipe: StableDiffusionPipeline, file: Path, *, seed: int = 0) -> None:
    """Write keys and values for each cross attention of the U-Net, and the picture's projection."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(rows: int, columns: int) -> torch.Tensor:
        return torch.randn(rows, columns, generator=generator).div(columns**0.5)

    width = pipe.unet.config.cross_attention_dim
    tensors = {
        "image_proj.proj.weight": drawn(TOKENS * width, pipe.image_encoder.config.projection_dim),
        "image_proj.proj.bias": torch.zeros(TOKENS * width),
        "image_proj.norm.weight": torch.ones(width),
        "image_proj.norm.bias": torch.zeros(width),
    }
    attentions = [n.removesuffix(".processor") for n in pipe.unet.attn_processors]
    crossing = [pipe.unet.get_submodule(n) for n in attentions if n.endswith("attn2")]
    for index, attention in enumerate(crossing):
        for name in ("to_k_ip", "to_v_ip"):
            weight = drawn(attention.to_k.out_features, width)
            tensors[f"ip_adapter.{2 * index + 1}.{name}.weight"] = weight
    save_file(tensors, file)
