"""Latents to pictures: the end of diffusers' own pipeline."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from search.core.errors import SearchError
from search.model.failures import pipeline_failures
from search.model.family import Request
from search.model.parts_in_place import on_vae_device, with_gradients, with_parts
from search.model.pictures import sources_of
from search.model.recording import record_encoding
from search.model.replaced import replaced
from search.model.scheduler import FixedScheduler, FixedTimestep

if TYPE_CHECKING:
    from search.model.pipeline import Pipeline


class _DecodedError(Exception):
    """Ends a pipeline's call where it decodes its latents."""


class Decoder(nn.Module):
    """The pipeline with no steps to make, so that it decodes the latents it is given."""

    def __init__(self, pipeline: Pipeline, size: tuple[int, ...]) -> None:
        """Prepare to make pictures of `size` (height, width)."""
        super().__init__()
        pipeline.load_around()
        vae = getattr(pipeline.pipe, "vae", None)
        if vae is None:
            msg = (
                f"a {type(pipeline.pipe).__name__} has no part named vae that makes pictures of its latents; "
                "such pipelines are not supported"
            )
            raise SearchError(msg)
        # It has its dtype; for some, pipelines change it.
        self._still = {"to": lambda *_, **__: vae}
        self.vae = vae.eval()
        self._pipeline = pipeline
        # With pictures, pipelines look for the timestep to begin at.
        timesteps: Tensor | list[FixedTimestep] = torch.ones(0) if sources_of(pipeline.pipe) else []
        self._scheduler = FixedScheduler(timesteps, pipeline.pipe.scheduler.config)
        self._request = Request((pipeline.default_prompt,), 1, 1.0, output="pt").sized(size)
        # The loop may run only once here, for which some schedulers have no timesteps.
        one = FixedScheduler(torch.ones(1), pipeline.pipe.scheduler.config)
        with with_parts(pipeline.pipe, scheduler=one):
            self._encoding = record_encoding(pipeline, self._request)
        if self._needs_step():
            self._scheduler = one

    def _needs_step(self) -> bool:
        """Whether the pipeline decodes what only a step of its loop gives it."""

        def stop(*_: Any, **__: Any) -> None:
            raise _DecodedError

        size = self._pipeline.body(self._request.size).latent_shape
        try:
            with replaced(self.vae, "decode", stop), torch.no_grad():
                self(torch.zeros(1, *size, device=self.vae.device))
        except _DecodedError:
            return False
        except SearchError as error:
            if isinstance(error.__cause__, UnboundLocalError):
                return True
            raise
        return False

    def forward(self, latents: Tensor) -> Tensor:
        """Latents `[B, ...]` -> pictures `[B, 3, height, width]` in 0..1, or frames `[B, F, 3, ...]`."""
        pipe = self._pipeline.pipe
        prompts = self._request.prompts * len(latents)
        request = replace(self._request, prompts=prompts, latents=latents)
        with (
            pipeline_failures(pipe),
            on_vae_device(pipe),
            with_gradients(pipe),
            with_parts(self.vae, **self._still),
            with_parts(pipe, scheduler=self._scheduler),
            replaced(self._pipeline.denoiser, "forward", lambda *_, **__: (latents,)),
            self._encoding.answering(self._encoding.conditions),
        ):
            pictures: Tensor = self._pipeline.family.call(pipe, request, None)
        return pictures
