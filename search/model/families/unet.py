"""U-Nets of Stable Diffusion 1.x, 2.x and XL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from search.core.subnet import Granularity
from search.model.families.text_to_image import TextToImage

LAYERS = frozenset(
    {
        "ResnetBlock2D",
        "Transformer2DModel",
        "BasicTransformerBlock",
        "Attention",
        "FeedForward",
        "Downsample2D",
        "Upsample2D",
    }
)
"""Classes of the modules that are blocks at layer granularity."""

if TYPE_CHECKING:
    from collections.abc import Iterator


class StableDiffusion(TextToImage):
    """`StableDiffusionPipeline`: text to image with one CLIP text encoder."""

    pipeline = "StableDiffusionPipeline"
    component = "unet"
    sample = "sample"
    scales_latents = True

    @property
    def branches(self) -> frozenset[str]:
        """Attention and feed-forward; ResNets and transformers hand on their input themselves."""
        return frozenset({"Attention", "FeedForward"})

    def blocks(self, denoiser: Any, granularity: Granularity) -> list[str]:
        """See `unet_blocks`."""
        return unet_blocks(denoiser, granularity)


class StableDiffusionXL(StableDiffusion):
    """`StableDiffusionXLPipeline`: two CLIP text encoders, and the picture's size as a condition."""

    pipeline = "StableDiffusionXLPipeline"


def unet_blocks(denoiser: Any, granularity: Granularity) -> list[str]:
    """Blocks of any diffusers U-Net with `down_blocks`, `mid_block` and `up_blocks`.

    stage: each of these; branch: each pair of a ResNet and the attention behind it, gated at its last
    module, each sampler, and the middle; layer: every ResNet, transformer, attention, feed-forward
    and sampler.
    """
    if granularity is Granularity.LAYER:
        return [n for n, m in denoiser.named_modules() if type(m).__name__ in LAYERS]
    stages = list(_stages(denoiser))
    if granularity is Granularity.STAGE:
        return stages
    names = []
    for stage in stages:
        if stage == "mid_block":
            names.append(stage)
            continue
        module = denoiser.get_submodule(stage)
        last = "attentions" if len(getattr(module, "attentions", None) or ()) else "resnets"
        for part in (last, "downsamplers", "upsamplers"):
            names += [f"{stage}.{part}.{i}" for i in range(len(getattr(module, part, None) or ()))]
    return names


def _stages(denoiser: Any) -> Iterator[str]:
    yield from (f"down_blocks.{i}" for i in range(len(denoiser.down_blocks)))
    if denoiser.mid_block is not None:
        yield "mid_block"
    yield from (f"up_blocks.{i}" for i in range(len(denoiser.up_blocks)))
