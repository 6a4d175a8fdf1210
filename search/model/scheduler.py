"""Any diffusers scheduler as a sampler table, read off by probing it.

Common samplers are affine maps of the initial noise and the noise predictions so far. They work
element by element, so stepping the real scheduler once on vectors whose elements are the basis (the
noise, the first prediction, the second, ...) yields all coefficients in one pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from torch import Tensor

from search.errors import SearchError
from search.sampler import SamplerTable

if TYPE_CHECKING:
    from search.sampler import FittedSampler

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


class TableScheduler:
    """A fitted sampler in the place of a diffusers scheduler, for the pipelines of diffusers.

    What its `step` calls latents is the denoiser's next input, so `scale_model_input` has nothing
    left to do, and `init_noise_sigma` is what the noise is multiplied with to be the first one.
    """

    order = 1

    def __init__(self, fitted: FittedSampler, config: Any) -> None:
        self.fitted, self.config = fitted, config
        self.init_noise_sigma = float(fitted.table.inputs[0, 0])
        self.timesteps = torch.tensor(fitted.timesteps)
        self._values: list[Tensor] = []

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        """Begin a run; the number of steps is the table's own."""
        del num_inference_steps
        self.timesteps = torch.tensor(self.fitted.timesteps, device=device)
        self._values = []

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """The denoiser's input, as it is."""
        del timestep
        return sample

    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        return_dict: bool = True,
    ) -> SchedulerOutput | tuple[Tensor]:
        """Keep the prediction; return the next input, or the final latents."""
        del timestep
        if not self._values:
            self._values.append(sample / self.init_noise_sigma)
        self._values.append(model_output)
        made, table = len(self._values) - 1, self.fitted.table
        row = table.final if made == len(table.inputs) else table.inputs[made]
        latents = torch.zeros_like(sample)
        for coefficient, value in zip(row, self._values, strict=False):
            if coefficient:
                latents = latents + float(coefficient) * value
        return SchedulerOutput(prev_sample=latents) if return_dict else (latents,)


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
