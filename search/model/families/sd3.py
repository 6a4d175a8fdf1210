"""Stable Diffusion 3 and 3.5: two CLIP text encoders, T5 and a transformer that joins text and image."""

from __future__ import annotations

from search.model.families.text_to_image import TextToImage


class StableDiffusion3(TextToImage):
    """`StableDiffusion3Pipeline`."""

    pipeline = "StableDiffusion3Pipeline"
