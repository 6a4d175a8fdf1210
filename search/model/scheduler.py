"""Any diffusers scheduler as a sampler table, read off by probing it.

Common samplers are affine maps of the initial noise and the noise predictions so far. They work
element by element, so stepping the real scheduler once on vectors whose elements are the basis (the
noise, the first prediction, the second, ...) yields all coefficients in one pass.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from search.errors import SearchError
from search.sampler import SamplerTable

# Relative difference of a probed table to the scheduler's own float32 arithmetic on random vectors.
_AFFINE_TOLERANCE = 1e-4


def read_sampler(scheduler: Any, steps: int) -> SamplerTable:
    """The table of a diffusers scheduler for `steps` inference steps.

    Raises:
        SearchError: the scheduler is not affine with these settings, or draws its own noise.
    """
    scheduler = type(scheduler).from_config(scheduler.config)
    try:
        scheduler.set_timesteps(steps)
    except ValueError as error:
        msg = f"{type(scheduler).__name__} refuses {steps} steps: {error}; choose another number"
        raise SearchError(msg) from error
    count = len(scheduler.timesteps)
    basis = torch.eye(1 + count)
    inputs, final = _walk(scheduler, steps, basis)
    table = SamplerTable(
        inputs=np.stack([x.double().numpy() for x in inputs]),
        final=final.double().numpy(),
    )
    _check_affine(scheduler, steps, table)
    return table


def _walk(
    scheduler: Any, steps: int, basis: torch.Tensor
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Run the sampler with `basis[0]` as noise and `basis[1 + k]` as the k-th prediction.

    Returns the denoiser's inputs and the final latents, each as a vector.
    """
    scheduler.set_timesteps(steps)
    latents = basis[0].reshape(1, 1, 1, -1) * getattr(scheduler, "init_noise_sigma", 1.0)
    inputs = []
    for k, timestep in enumerate(scheduler.timesteps):
        scale = getattr(scheduler, "scale_model_input", lambda sample, _: sample)
        inputs.append(scale(latents, timestep).flatten())
        prediction = basis[1 + k].reshape(1, 1, 1, -1)
        latents = scheduler.step(prediction, timestep, latents, return_dict=False)[0]
    return inputs, latents.flatten()


def _check_affine(scheduler: Any, steps: int, table: SamplerTable) -> None:
    """Compare the table with the scheduler itself on two scales of random vectors."""
    for scale in (1.0, 50.0):
        generator = torch.Generator().manual_seed(0)
        values = scale * torch.randn(len(table.final), 256, generator=generator)
        inputs, final = _walk(scheduler, steps, values)
        expected = np.vstack([table.inputs, table.final]) @ values.double().numpy()
        found = np.stack([x.double().numpy() for x in [*inputs, final]])
        error = np.abs(found - expected).max() / np.abs(expected).max()
        if not error < _AFFINE_TOLERANCE:
            msg = (
                f"the scheduler {type(scheduler).__name__} is not an affine map of noise and "
                f"predictions with these settings (off by {error:.1e}): it clips, thresholds or "
                "draws its own noise; switch that off in its configuration or choose another"
            )
            raise SearchError(msg)
