"""The forward (noising) process, and the effect of a prediction's error on the picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from search.core.errors import SearchError


@dataclass(frozen=True)
class Noising:
    """The forward (noising) process of training, from the pipeline's scheduler.

    Attributes:
        timesteps: to choose from, `[N]`.
        clean: what remains of the latents at each, `[N]`.
        noise: how much noise there is at each, `[N]`.
        kind: what is predicted: epsilon, v_prediction, sample or flow.
    """

    timesteps: Tensor
    clean: Tensor
    noise: Tensor
    kind: str

    @staticmethod
    def of(scheduler: Any, *, otherwise: str = "") -> Noising:
        """From a scheduler's configuration.

        Args:
            scheduler: of a pipeline.
            otherwise: what else can be done where it is of no known kind, for people.

        Raises:
            SearchError: it is of neither kind that is known.
        """
        fresh = type(scheduler).from_config(scheduler.config)
        kept = getattr(fresh, "alphas_cumprod", None)
        kind = fresh.config.get("prediction_type", "epsilon")
        if kept is not None and kind in ("epsilon", "v_prediction", "sample"):
            return Noising(torch.arange(len(kept)), kept.sqrt(), (1 - kept).sqrt(), kind)
        if "FlowMatch" in type(fresh).__name__:
            sigmas = fresh.sigmas[: len(fresh.timesteps)].float()
            return Noising(fresh.timesteps.float(), 1 - sigmas, sigmas, "flow")
        msg = (
            f"stepcarve does not know how {type(fresh).__name__} puts noise on latents; save the pipeline "
            f"with another scheduler{otherwise}"
        )
        raise SearchError(msg)

    def mix(self, chosen: Tensor, latents: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Noisy latents and what is to be predicted of them, at the timesteps numbered `chosen` `[B]`."""
        shape = (-1, *(1,) * (latents.dim() - 1))
        a = self.clean.to(latents)[chosen].view(shape)
        b = self.noise.to(latents)[chosen].view(shape)
        wanted = {
            "epsilon": lambda: noise,
            "sample": lambda: latents,
            "v_prediction": lambda: a * noise - b * latents,
            "flow": lambda: noise - latents,
        }[self.kind]()
        return a * latents + b * noise, wanted

    def weights(self, chosen: Tensor, floor: float, cap: float) -> Tensor:
        """Of squared errors of predictions `[B]`, such that those of the picture weigh clip(SNR, floor, cap)."""
        a, b = self.clean[chosen.cpu()].double(), self.noise[chosen.cpu()].double()
        snr = (a / b).square().clamp(1e-8, 1e8)
        # How much a squared error e of each kind is one of the picture: e * b^2 / a^2 and so on.
        of_picture = {
            "epsilon": 1 / snr,
            "sample": torch.ones_like(snr),
            "v_prediction": b.square(),
            "flow": b.square(),
        }[self.kind]
        found: Tensor = (snr.clamp(floor, cap) * of_picture).float().to(chosen.device)
        return found

    def nearest(self, timesteps: Tensor) -> Tensor:
        """Numbers `[B]` of the timesteps closest to those given, `[B]`."""
        return (timesteps[:, None].cpu() - self.timesteps).abs().argmin(dim=1)
