"""A sampler of a few calls as a scheduler of diffusers. This file needs torch, numpy and diffusers only.

    from fitted_scheduler import FittedScheduler  # the copy of this file beside the configuration

    pipe.scheduler = FittedScheduler.from_pretrained("DIRECTORY")
    pipe(prompt, num_inference_steps=pipe.scheduler.num_inference_steps)

Coefficients that are for a range of guidance scales need to be told another scale than their own, because
a pipeline does not tell its scheduler: `from_pretrained("DIRECTORY", guidance_scale=5.0)`.
`stepcarve export-scheduler` writes the directory.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin, SchedulerOutput


class FittedScheduler(SchedulerMixin, ConfigMixin):  # type: ignore[misc]
    """Each input of the denoiser, and the final latents, as a sum of the noise and the predictions so far.

    What `step` calls latents is the denoiser's next input, so `scale_model_input` has nothing to do.

    Args:
        timesteps: one per call, noisiest first.
        inputs: per call, the coefficients of the noise and of each earlier prediction.
        final: the same for the final latents.
        latent_shape: of one image as the denoiser takes it, if the rows are for that size only.
        guidance_scale: that the rows are for, if they are not for all; a scheduler is not told.
        by_scale: how the rows change with that scale, if they do: the range `low` to `high`, the scale
            `guidance` at which they are `inputs` and `final`, and `powers`, what is added to these times
            the first, second, ... power of (scale - guidance) / (high - low).
        num_train_timesteps: of the model; some pipelines read it.
    """

    order = 1

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        timesteps: list[float],
        inputs: list[list[float]],
        final: list[float],
        latent_shape: list[int] | None = None,
        guidance_scale: float | None = None,
        by_scale: dict[str, Any] | None = None,
        num_train_timesteps: int = 1000,
    ) -> None:
        del num_train_timesteps
        self._terms, self._by_scale = [[*inputs, final]], by_scale
        if by_scale is not None:
            self._terms += [[*power["inputs"], power["final"]] for power in by_scale["powers"]]
        self.use_guidance_scale(guidance_scale)
        self._shape = latent_shape
        self.num_inference_steps = len(inputs)
        self.init_noise_sigma = float(inputs[0][0])
        self.timesteps = torch.tensor(timesteps)
        self._values: list[torch.Tensor] = []

    def use_guidance_scale(self, scale: float | None) -> None:
        """Take the rows for a guidance scale, where they depend on it."""
        by = self._by_scale
        if by is None:
            self._rows = self._terms[0]
            return
        if scale is None or not by["low"] <= scale <= by["high"]:
            msg = (
                f"the guidance scale is {scale}, but this scheduler's coefficients are for {by['low']:g} to "
                f"{by['high']:g}; give guidance_scale in that range"
            )
            raise ValueError(msg)
        place = (scale - by["guidance"]) / (by["high"] - by["low"])
        self._rows = [
            [sum(c * place**k for k, c in enumerate(terms)) for terms in zip(*rows, strict=True)]
            for rows in zip(*self._terms, strict=True)
        ]

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        sigmas: Any = None,
        mu: float | None = None,
    ) -> None:
        """Begin a run.

        Args:
            num_inference_steps: must be the number of calls.
            device: of the timesteps.
            sigmas: the even spacing that flow pipelines give of their own accord, and no other.
            mu: the shift for the picture's size; the timesteps have it already.
        """
        del mu
        calls = self.num_inference_steps
        wanted = num_inference_steps if sigmas is None else len(sigmas)
        if wanted != calls:
            msg = (
                f"{wanted} inference steps were asked for, but this scheduler makes {calls} calls with "
                f"coefficients that belong together; give num_inference_steps={calls}"
            )
            raise ValueError(msg)
        if sigmas is not None and not np.allclose(sigmas, np.linspace(1, 1 / calls, calls)):
            msg = (
                f"the sigmas {list(sigmas)} were given, but this scheduler has timesteps of its own; "
                "leave sigmas= out"
            )
            raise ValueError(msg)
        self.timesteps = self.timesteps.to(device)
        self._values = []

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Runs begin at the first call."""
        if begin_index:
            raise ValueError(self._begins_late(f"call {begin_index}"))

    def scale_model_input(self, sample: torch.Tensor, timestep: Any = None) -> torch.Tensor:
        """The denoiser's input, as it is."""
        del timestep
        return sample

    def step(
        self,
        model_output: torch.Tensor,
        timestep: Any,
        sample: torch.Tensor,
        return_dict: bool = True,
    ) -> SchedulerOutput | tuple[torch.Tensor]:
        """Keep the prediction; return the next input, or the final latents.

        Args:
            model_output: the prediction with guidance applied, `[B, ...]`.
            timestep: of this call.
            sample: the denoiser's input, `[B, ...]`; read at the first call only.
            return_dict: return a `SchedulerOutput`, not a tuple.
        """
        if not self._values:
            self._require_start(timestep, sample)
            self._values.append(sample.float() / self.init_noise_sigma)
        elif len(self._values) > self.num_inference_steps:
            msg = (
                f"all {self.num_inference_steps} calls of this scheduler have been made; call "
                "set_timesteps to begin another run"
            )
            raise ValueError(msg)
        self._values.append(model_output)
        row = self._rows[len(self._values) - 1]
        total = torch.zeros_like(self._values[0])
        for coefficient, value in zip(row, self._values, strict=False):
            if coefficient:
                total = total + coefficient * value.float()
        latents = total.to(sample.dtype)
        return SchedulerOutput(prev_sample=latents) if return_dict else (latents,)

    def add_noise(self, original_samples: Any, noise: Any, timesteps: Any) -> torch.Tensor:
        """Refused: the rows begin from pure noise."""
        del original_samples, noise, timesteps
        raise ValueError(self._begins_late("a noised picture"))

    def scale_noise(self, sample: Any, timestep: Any, noise: Any = None) -> torch.Tensor:
        """Refused likewise."""
        return self.add_noise(sample, noise, timestep)

    def _require_start(self, timestep: Any, sample: torch.Tensor) -> None:
        """Refuse a run that does not begin at the first call, or is of another size."""
        if float(timestep) != float(self.timesteps[0]):
            raise ValueError(self._begins_late(f"timestep {float(timestep):g}"))
        shape = list(sample.shape[1:])
        if self._shape is not None and shape != list(self._shape):
            msg = (
                f"the latents of a picture have the shape {shape} here, but this scheduler was made for "
                f"{list(self._shape)}; give the height and width that belong to it"
            )
            raise ValueError(msg)

    def _begins_late(self, where: str) -> str:
        return (
            f"the run begins at {where}, but this scheduler's coefficients begin from pure noise at "
            f"timestep {float(self.timesteps[0]):g}; use it for text to image only, without a strength"
        )
