"""Latents to pictures: the end of diffusers' own pipeline."""

from __future__ import annotations

from contextlib import ExitStack, nullcontext
from dataclasses import replace
from functools import wraps
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from search.core.errors import SearchError
from search.model.failures import pipeline_failures
from search.model.family import Request
from search.model.parts_in_place import (
    decoders_of,
    on_vae_device,
    with_gradients,
    with_parts,
)
from search.model.pictures import sources_of
from search.model.recording import record_encoding
from search.model.replaced import replaced
from search.model.stand_in_scheduler import FixedScheduler, FixedTimestep

if TYPE_CHECKING:
    from collections.abc import Callable

    from search.model.pipeline import Pipeline


_PROCESSORS = ("image_processor", "video_processor")


class _DecodedError(Exception):
    """Ends a pipeline's call where it decodes its latents."""


class Decoder(nn.Module):
    """The pipeline with no steps to make, so that it decodes the latents it is given."""

    def __init__(self, pipeline: Pipeline, size: tuple[int, ...]) -> None:
        """Prepare to make pictures of `size` (height, width)."""
        super().__init__()
        pipeline.load_around()
        for name, part in decoders_of(pipeline.pipe).items():
            self.add_module(name, part.eval())
        # Each has its dtype; pipelines change that of some.
        self._parts = list(decoders_of(pipeline.pipe).values())
        self._pipeline = pipeline
        # The processors of diffusers give the same picture in every form; without one, only that of
        # `np` is in 0..1.
        self._is_raw = not any(hasattr(pipeline.pipe, name) for name in _PROCESSORS)
        # With pictures, pipelines look for the timestep to begin at.
        timesteps: Tensor | list[FixedTimestep] = torch.ones(0) if sources_of(pipeline.pipe) else []
        self._scheduler = FixedScheduler(timesteps, pipeline.pipe.scheduler.config)
        output = "np" if self._is_raw else "pt"
        prompts, steps = (pipeline.default_prompt,), pipeline.some_steps
        self._request = Request(prompts, steps, 1.0, output=output).sized(size)
        # The loop may run only once here, for which some schedulers have no timesteps.
        one = FixedScheduler(torch.ones(1), pipeline.pipe.scheduler.config)
        with with_parts(pipeline.pipe, scheduler=one):
            self._encoding = record_encoding(pipeline, self._request)
        if self._needs_step():
            self._scheduler = one

    def _needs_step(self) -> bool:
        """Whether the pipeline decodes what only a step of its loop gives it."""
        size = self._pipeline.body(self._request.size).latent_shape
        try:
            self.given(torch.zeros(1, *size, device=self._device))
        except SearchError as error:
            if isinstance(error.__cause__, UnboundLocalError):
                return True
            raise
        return False

    @property
    def dtype(self) -> torch.dtype:
        """Of the latents that it decodes."""
        return next((part.dtype for part in self.parameters()), torch.float32)

    @property
    def _device(self) -> torch.device:
        return next((part.device for part in self.parameters()), torch.device("cpu"))

    def given(self, latents: Tensor) -> Tensor | None:
        """What the autoencoder is given to decode for `latents`; None if it is given nothing."""

        def stop(given: Tensor, *_: Any, **__: Any) -> None:
            raise _DecodedError(given)

        try:
            with ExitStack() as stack, torch.no_grad():
                for part in self.children():
                    stack.enter_context(replaced(part, "decode", stop))
                self(latents)
        except _DecodedError as decoded:
            return cast("Tensor", decoded.args[0])
        return None

    def forward(self, latents: Tensor) -> Tensor:
        """Latents `[B, ...]` -> pictures `[B, 3, height, width]` in 0..1, or frames `[B, F, 3, ...]`."""
        pipe = self._pipeline.pipe
        prompts = self._request.prompts * len(latents)
        request = replace(self._request, prompts=prompts, latents=latents)
        networks = self._pipeline.networks.values()
        with ExitStack() as stack:
            for context in (
                pipeline_failures(pipe),
                on_vae_device(pipe),
                with_gradients(pipe),
                with_parts(pipe, scheduler=self._scheduler),
                *(with_parts(part, to=_stay(part)) for part in self._parts),
                *(replaced(part, "decode", _in_tiles_if_need_be(part)) for part in self.children()),
                *(
                    replaced(network, "forward", lambda *_, **__: (latents,))
                    for network in networks
                ),
                self._encoding.answering(self._encoding.conditions),
                replaced(Tensor, "numpy", _itself) if self._is_raw else nullcontext(),
            ):
                stack.enter_context(context)
            pictures: Tensor = self._pipeline.family.call(pipe, request, None)
        return pictures.movedim(-1, -3) if self._is_raw else pictures


def _stay(part: nn.Module) -> Callable[..., nn.Module]:
    """In the place of a part's conversion to another type."""
    return lambda *_, **__: part


def _in_tiles_if_need_be(part: Any) -> Callable[..., Any]:
    """A decoder's `decode`, after `enable_tiling()` where it makes pictures in tiles alone."""
    original = part.decode

    @wraps(original)
    def decode(*args: Any, **kwargs: Any) -> Any:
        try:
            return original(*args, **kwargs)
        except NotImplementedError:
            if not hasattr(part, "enable_tiling"):
                raise
        part.enable_tiling()
        return original(*args, **kwargs)

    return decode


def _itself(tensor: Tensor, *_: Any, **__: Any) -> Tensor:
    """In the place of a tensor's conversion to numpy."""
    return tensor
