"""LoRA files with random weights, as trainers write them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from diffusers import StableDiffusionXLPipeline

ADAPTED = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2")
"""Layers of a U-Net or transformer that trainers adapt, by how their names end."""

ADAPTED_TEXT = ("q_proj", "k_proj", "v_proj", "out_proj")
"""Layers of a CLIP text encoder."""


def lora_tensors(
    network: nn.Module, ends: tuple[str, ...], *, rank: int, seed: int, size: float = 0.5
) -> dict[str, torch.Tensor]:
    """The two factors of each layer's change, which is about `size` of the layer."""
    generator = torch.Generator().manual_seed(seed)
    # Older versions of transformers, with which most files were made, had all in `text_model`.
    prefix = "text_model." if hasattr(network, "embeddings") else ""
    tensors = {}
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Linear) and name.endswith(ends):
            down = torch.randn(rank, layer.in_features, generator=generator)
            up = torch.randn(layer.out_features, rank, generator=generator)
            tensors[f"{prefix}{name}.lora_A.weight"] = down / layer.in_features**0.5
            tensors[f"{prefix}{name}.lora_B.weight"] = up * size / rank**0.5
    return tensors


def write_lora(
    pipe: StableDiffusionXLPipeline, file: Path, *, rank: int = 2, seed: int = 0
) -> Mapping[str, torch.Tensor]:
    """Write a LoRA for the U-Net and both text encoders; returns its tensors.

    Without alphas: the change of a layer is `lora_B @ lora_A`.
    """
    unet = lora_tensors(pipe.unet, ADAPTED, rank=rank, seed=seed)
    first = lora_tensors(pipe.text_encoder, ADAPTED_TEXT, rank=rank, seed=seed + 1)
    second = lora_tensors(pipe.text_encoder_2, ADAPTED_TEXT, rank=rank, seed=seed + 2)
    pipe.save_lora_weights(
        file.parent,
        unet_lora_layers=unet,
        text_encoder_lora_layers=first,
        text_encoder_2_lora_layers=second,
        weight_name=file.name,
    )
    parts = {"unet": unet, "text_encoder": first, "text_encoder_2": second}
    return {f"{part}.{key}": t for part, tensors in parts.items() for key, t in tensors.items()}
