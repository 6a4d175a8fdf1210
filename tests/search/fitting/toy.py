"""Runs of a sampler whose denoiser is a formula."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from search.core.sampler import ScaleRange
from search.fitting.trajectories import Trajectories


def predict(sample: Tensor, timestep: Tensor) -> Tensor:
    """A mild nonlinear function of latents and time."""
    return torch.tanh(sample) * (0.3 + 0.7 * timestep / 1000) + 0.1 * sample


SHAPE = (2, 4, 4)


def linear_runs(
    steps: int = 8, pictures: int = 4, seed: int = 0, shape: tuple[int, ...] = SHAPE
) -> Trajectories:
    """Euler's method on `predict` from random noise, the same numbers in every shape of a picture."""
    noise = torch.randn(pictures, *shape, generator=torch.Generator().manual_seed(seed))
    return _euler(predict, noise, steps)


def _euler(predictor: Any, noise: Tensor, steps: int, **more: Any) -> Trajectories:
    """Trajectories of Euler's method from `noise`."""
    timesteps = torch.linspace(1000, 1000 / steps, steps)
    latents, predictions = [noise], []
    for timestep in timesteps:
        predictions.append(predictor(latents[-1], timestep))
        latents.append(latents[-1] - predictions[-1] / steps)
    return Trajectories(
        predictor=predictor,
        timesteps=timesteps,
        noise=noise,
        latents=torch.stack(latents[:-1]),
        predictions=torch.stack(predictions),
        final=latents[-1],
        first=1.0,
        **more,
    )


@dataclass(frozen=True)
class Guided:
    """Calls of a denoiser that is a formula, each with a guidance scale, which bends the predictions.

    Attributes:
        scales: of the calls.
        size: pictures per call.
    """

    scales: tuple[float, ...]
    size: int

    @property
    def chunks(self) -> int:
        """How many calls."""
        return len(self.scales)

    def of_chunks(self, numbers: Sequence[int]) -> Guided:
        """Some of them."""
        return Guided(tuple(self.scales[number] for number in numbers), self.size)

    def __call__(self, sample: Tensor, timestep: Tensor) -> Tensor:
        """Predictions of all pictures."""
        parts = zip(torch.split(sample, self.size), self.scales, strict=True)
        return torch.cat([predict(p, timestep) + 0.2 * s * torch.sin(2 * p) for p, s in parts])


def guided_runs(
    asked: Sequence[float],
    scales: ScaleRange | None = None,
    *,
    rounds: int = 2,
    size: int = 3,
    seed: int = 0,
    steps: int = 8,
) -> Trajectories:
    """Euler's method on `Guided`, at some guidance scales in turn."""
    predictor: Any = Guided(tuple(asked) * rounds, size)
    pictures = predictor.chunks * size
    noise = torch.randn(pictures, *SHAPE, generator=torch.Generator().manual_seed(seed))
    scale_of = None
    if scales is not None:
        each = [scales.fitted_at.index(predictor.scales[n // size]) for n in range(pictures)]
        scale_of = torch.tensor(each)
    return _euler(predictor, noise, steps, scales=scales, scale_of=scale_of)
