"""PixArt-alpha and PixArt-Sigma: T5 and a transformer with cross-attention."""

from __future__ import annotations

from typing import Any, ClassVar

from search.model.families.text_to_image import TextToImage


class PixArtAlpha(TextToImage):
    """`PixArtAlphaPipeline`, for captions as they are and pictures of exactly the requested size."""

    pipeline = "PixArtAlphaPipeline"
    settings: ClassVar[dict[str, Any]] = {"clean_caption": False, "use_resolution_binning": False}
    scales_latents = True


class PixArtSigma(PixArtAlpha):
    """`PixArtSigmaPipeline`, likewise."""

    pipeline = "PixArtSigmaPipeline"
