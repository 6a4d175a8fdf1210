"""The body of a pipeline as a function of latents and timestep, for given prompts."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from search.model.body import Body, Place
from search.model.family import Request

if TYPE_CHECKING:
    from collections.abc import Sequence

    from search.model.pipeline import Pipeline


class Predictor:
    """Noise predictions for S prompts, guidance applied.

    Attributes:
        bodies: a step for the pictures of each call of the denoiser.
        scales: the guidance scale of each of these calls.
        size: pictures per call; the last one may have fewer.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        prompts: Sequence[str],
        *,
        guidance: float | Sequence[float],
        noise_shape: tuple[int, ...],
        negative: str = "",
        chunk: int | None = None,
        seed: int | None = None,
        place: Place | None = None,
    ) -> None:
        """Encode the prompts.

        Args:
            pipeline: with its weights loaded.
            prompts: one per picture.
            guidance: classifier-free guidance scale; 1 or less is none. Several: of the calls in turn.
            noise_shape: `[C, H, W]` of one picture.
            negative: prompt, the same for all pictures; empty for none.
            chunk: pictures per call of the denoiser; None puts all into one.
            seed: of the noise that autoencoders draw; None leaves it to torch.
            place: of the step, if the steps do not all do the same.
        """
        self.pipeline, self.prompts, self.negative = pipeline, tuple(prompts), negative
        size = chunk or len(prompts)
        starts = range(0, len(prompts), size)
        scales = [guidance] if isinstance(guidance, int | float) else guidance
        self.scales = tuple(scales[number % len(scales)] for number in range(len(starts)))
        self.bodies = [
            Body(
                pipeline,
                Request(
                    prompts=self.prompts[start : start + size],
                    steps=2,
                    guidance=scale,
                    negative=negative,
                    seed=seed,
                ).sized(pipeline.size(noise_shape)),
                place=place,
            )
            for start, scale in zip(starts, self.scales, strict=True)
        ]
        self.size, self.noise_shape = size, noise_shape
        self.guided = self.bodies[0].guided
        self.latent_shape = self.bodies[0].latent_shape

    def first(self, count: int) -> Predictor:
        """For the first `count` prompts, all in one call, which has one guidance scale."""
        scales = set(self.scales[: -(-count // self.size)])
        assert len(scales) == 1, "pictures of several guidance scales cannot share a call"
        return self._of(self.prompts[:count], *scales)

    def alone(self, number: int) -> Predictor:
        """For one of the prompts."""
        return self._of(self.prompts[number : number + 1], self.scales[number // self.size])

    def _of(self, prompts: Sequence[str], guidance: float) -> Predictor:
        return Predictor(
            self.pipeline,
            prompts,
            guidance=guidance,
            noise_shape=self.noise_shape,
            negative=self.negative,
        )

    @property
    def chunks(self) -> int:
        """How many calls of the denoiser it takes for all pictures."""
        return len(self.bodies)

    def of_chunks(self, numbers: Sequence[int]) -> Predictor:
        """For the pictures of some of these calls, in order."""
        part = copy.copy(self)
        part.bodies = [self.bodies[number] for number in numbers]
        part.scales = tuple(self.scales[number] for number in numbers)
        part.prompts = tuple(
            prompt
            for number in numbers
            for prompt in self.prompts[number * self.size : (number + 1) * self.size]
        )
        return part

    def __call__(
        self, sample: Tensor, timestep: Tensor, *, guidance: float | None = None
    ) -> Tensor:
        """The denoiser's input `[S, C, H, W]` and a timestep `[]` -> noise predictions `[S, C, H, W]`.

        Another `guidance` scale than the predictor's own can be asked for.
        """
        asked = None if guidance is None else torch.tensor(guidance)
        time = timestep.to(torch.float32)
        parts = zip(torch.split(sample, self.size), self.bodies, strict=True)
        with torch.no_grad():
            return torch.cat([body(part, time, guidance=asked) for part, body in parts])
