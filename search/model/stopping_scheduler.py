"""Schedulers that end a pipeline's call at a step, to see what the pipeline does until then."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from search.model.stand_in_scheduler import StandIn

if TYPE_CHECKING:
    from torch import Tensor

SCALE = 2.0
"""What such a scheduler calls its `init_noise_sigma`, to see who multiplies by it."""


class StoppedError(Exception):
    """Ends a pipeline's call at the first step of its scheduler.

    Attributes:
        prediction: what the scheduler is handed.
        sample: the latents that it is to step.
    """

    def __init__(self, prediction: Tensor, sample: Tensor) -> None:
        super().__init__()
        self.prediction, self.sample = prediction, sample


class Scheduled(StandIn):
    """A stand-in for a pipeline's scheduler, which ends the call at its first step, or a later one.

    Attributes:
        remaining: steps before that one; the last of them returns `latents`.
    """

    init_noise_sigma = SCALE

    def __init__(
        self, timesteps: Tensor, own: Any, before: int = 0, latents: Tensor | None = None
    ) -> None:
        super().__init__(timesteps, own)
        self.remaining, self._latents = before, latents

    def stepped(self, prediction: Tensor, sample: Tensor) -> Tensor:
        """End the call, or let the loop go on."""
        if not self.remaining:
            raise StoppedError(prediction, sample)
        self.remaining -= 1
        if not self.remaining and self._latents is not None:
            return as_often(self._latents, sample)
        return sample


def as_often(latents: Tensor, sample: Tensor) -> Tensor:
    """The latents of each picture as often as in `sample`: some loops step both halves of a batch."""
    times = len(sample) // len(latents)
    return latents if times == 1 else torch.cat([latents] * times)


class Twice(Scheduled):
    """Likewise with two timesteps: its first step returns latents of one value.

    Attributes:
        returned: these.
    """

    returned: Tensor | None = None

    def stepped(self, prediction: Tensor, sample: Tensor) -> Tensor:
        """The first returns, the second ends the call."""
        if self.returned is not None:
            return super().stepped(prediction, sample)
        self.returned = torch.full_like(sample, 0.5)
        return self.returned

    def add_noise(self, original_samples: Tensor, *_: Any, **__: Any) -> Tensor:
        """The latents as they are, without noise."""
        return original_samples

    def scale_noise(self, sample: Tensor, *_: Any, **__: Any) -> Tensor:
        """The same, as flow matching calls it."""
        return sample
