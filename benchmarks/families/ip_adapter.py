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
    from collections.abc import Callable
    from pathlib import Path

TOKENS = 4
"""Of a picture, beside those of the text."""
HEAD, LAYERS = 64, 4
"""Width of a head and number of layers of every IP-Adapter Plus."""


def seeing() -> DiffusionPipeline:
    """Stable Diffusion 1.5 with an encoder of pictures: `load_ip_adapter` puts the file into it."""
    built = {**parts(), "feature_extractor": encoders.clip_pictures()}
    eye = encoders.clip_vision()
    return with_random_weights(StableDiffusionPipeline(**built, image_encoder=eye), 321)


def write_ip_adapter(
    pipe: StableDiffusionPipeline, file: Path, *, seed: int = 0, plus: bool = False
) -> None:
    """Write keys and values for each cross attention of the U-Net, and the picture's projection.

    Args:
        pipe: that it is for, with its image encoder.
        file: to write.
        seed: of the weights.
        plus: the projection is that of IP-Adapter Plus, which attends to all patches of the picture.
    """
    generator = torch.Generator().manual_seed(seed)

    def drawn(rows: int, columns: int) -> torch.Tensor:
        return torch.randn(rows, columns, generator=generator).div(columns**0.5)

    width, eye = pipe.unet.config.cross_attention_dim, pipe.image_encoder.config
    projection = (
        _resampler(drawn, eye.hidden_size, width)
        if plus
        else {
            "proj.weight": drawn(TOKENS * width, eye.projection_dim),
            "proj.bias": torch.zeros(TOKENS * width),
            **_norm("norm", width),
        }
    )
    tensors = {f"image_proj.{name}": tensor for name, tensor in projection.items()}
    attentions = [n.removesuffix(".processor") for n in pipe.unet.attn_processors]
    crossing = [pipe.unet.get_submodule(n) for n in attentions if n.endswith("attn2")]
    for index, attention in enumerate(crossing):
        for name in ("to_k_ip", "to_v_ip"):
            weight = drawn(attention.to_k.out_features, width)
            tensors[f"ip_adapter.{2 * index + 1}.{name}.weight"] = weight
    save_file(tensors, file)


def _norm(name: str, width: int) -> dict[str, torch.Tensor]:
    return {f"{name}.weight": torch.ones(width), f"{name}.bias": torch.zeros(width)}


def _resampler(
    drawn: Callable[[int, int], torch.Tensor], seen: int, width: int
) -> dict[str, torch.Tensor]:
    """The projection of IP-Adapter Plus, of one head."""
    found = {
        "latents": drawn(TOKENS, HEAD)[None],
        "proj_in.weight": drawn(HEAD, seen),
        "proj_in.bias": torch.zeros(HEAD),
        "proj_out.weight": drawn(width, HEAD),
        "proj_out.bias": torch.zeros(width),
        **_norm("norm_out", width),
    }
    for layer in (f"layers.{number}" for number in range(LAYERS)):
        found |= {
            **_norm(f"{layer}.0.norm1", HEAD),
            **_norm(f"{layer}.0.norm2", HEAD),
            f"{layer}.0.to_q.weight": drawn(HEAD, HEAD),
            f"{layer}.0.to_kv.weight": drawn(2 * HEAD, HEAD),
            f"{layer}.0.to_out.weight": drawn(HEAD, HEAD),
            **_norm(f"{layer}.1.0", HEAD),
            f"{layer}.1.1.weight": drawn(4 * HEAD, HEAD),
            f"{layer}.1.3.weight": drawn(HEAD, 4 * HEAD),
        }
    return found
