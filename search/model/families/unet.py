"""The blocks of U-Nets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from search.core.subnet import Granularity

if TYPE_CHECKING:
    from collections.abc import Iterator

UNET_LAYERS = frozenset(
    {
        "ResnetBlock2D",
        "Transformer2DModel",
        "BasicTransformerBlock",
        "Downsample2D",
        "Upsample2D",
    }
)
"""Classes of the modules that are blocks at layer granularity beside attention and feed-forward."""
_BRANCHES = frozenset({"Attention", "FeedForward"})


def is_unet(denoiser: Any) -> bool:
    """Whether a denoiser has a way down and a way up."""
    return hasattr(denoiser, "down_blocks") and hasattr(denoiser, "up_blocks")


def unet_blocks(denoiser: Any, granularity: Granularity) -> list[str]:
    """Blocks of any diffusers U-Net with `down_blocks`, `mid_block` and `up_blocks`.

    stage: each of these; branch: each pair of a ResNet and the attention behind it, gated at its last
    module, each sampler, the middle, and stages that are built otherwise; layer: every ResNet,
    transformer, attention, feed-forward and sampler.
    """
    if granularity is Granularity.LAYER:
        return [
            n for n, m in denoiser.named_modules() if type(m).__name__ in UNET_LAYERS | _BRANCHES
        ]
    stages = list(_stages(denoiser))
    if granularity is Granularity.STAGE:
        return stages
    names = []
    for stage in stages:
        module = denoiser.get_submodule(stage)
        if stage == "mid_block" or not hasattr(module, "resnets"):
            names.append(stage)
            continue
        last = "attentions" if len(getattr(module, "attentions", None) or ()) else "resnets"
        for part in (last, "downsamplers", "upsamplers"):
            names += [f"{stage}.{part}.{i}" for i in range(len(getattr(module, part, None) or ()))]
    return names


def _stages(denoiser: Any) -> Iterator[str]:
    yield from (f"down_blocks.{i}" for i in range(len(denoiser.down_blocks)))
    if getattr(denoiser, "mid_block", None) is not None:
        yield "mid_block"
    yield from (f"up_blocks.{i}" for i in range(len(denoiser.up_blocks)))
