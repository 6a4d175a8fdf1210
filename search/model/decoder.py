"""Latents to pictures: the end of diffusers' own pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from search.model.failures import pipeline_failures
from search.model.family import Request
from search.model.recording import on_vae_device, record_encoding, with_gradients, with_parts
from search.model.scheduler import FixedScheduler

if TYPE_CHECKING:
    from search.model.pipeline import Pipeline


class Decoder(nn.Module):
    """The pipeline with no steps to make, so that it decodes the latents it is given."""

    def __init__(self, pipeline: Pipeline, size: tuple[int, int]) -> None:
        """Prepare to make pictures of `size` (height, width)."""
        super().__init__()
        pipeline.load_around()
        self.vae = pipeline.pipe.vae.eval()
        self._pipeline, self._size = pipeline, size
        self._scheduler = FixedScheduler([], pipeline.pipe.scheduler.config)
        self._encoded = record_encoding(pipeline, size)

    def forward(self, latents: Tensor) -> Tensor:
        """Latents `[B, ...]` -> pictures `[B, 3, height, width]` in 0..1."""
        pipe, family = self._pipeline.pipe, self._pipeline.family
        request = Request(
            prompts=(family.default_prompt,) * len(latents),
            steps=1,
            guidance=1.0,
            latents=latents,
            output="pt",
        ).sized(self._size)
        parts = {} if self._encoded is None else {"encode_prompt": lambda *_, **__: self._encoded}
        with (
            pipeline_failures(pipe),
            on_vae_device(pipe),
            with_gradients(pipe),
            with_parts(pipe, scheduler=self._scheduler, **parts),
        ):
            pictures: Tensor = family.call(pipe, request, None)
        return pictures
