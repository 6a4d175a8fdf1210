"""Runs of a sampler whose denoiser is a formula."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

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
    timesteps = torch.linspace(1000, 1000 / steps, steps)
    latents, predictions = [noise], []
    for timestep in timesteps:
        predictions.append(predict(latents[-1], timestep))
        latents.append(latents[-1] - predictions[-1] / steps)
    predictor: Any = predict
    return Trajectories(
        predictor=predictor,
        timesteps=timesteps,
        noise=noise,
        latents=torch.stack(latents[:-1]),
        predictions=torch.stack(predictions),
        final=latents[-1],
        first=1.0,
    )
