"""FLUX.1 dev and schnell: CLIP and T5, packed latents, guidance as an input of the denoiser or none."""

from __future__ import annotations

from search.model.families.text_to_image import TextToImage


class Flux(TextToImage):
    """`FluxPipeline`."""

    pipeline = "FluxPipeline"
    stacks = ("transformer_blocks", "single_transformer_blocks")
    layers = frozenset({"FluxAttention", "FeedForward"})
