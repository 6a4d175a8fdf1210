"""The losses: consistency of a gated run with the full one, and sparsity of its gates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytorch_msssim as msssim

from search.core.errors import SearchError
from search.dipgo.recipe import Consistency

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

WINDOW = 11
"""Window of SSIM in pixels: a Gaussian with a deviation of 1.5 (Wang et al. 2004)."""


@dataclass(frozen=True)
class LossTarget:
    """The part of the full run that a gated one is compared with.

    Attributes:
        latents: those that are compared, `[S, B, ...]`.
        pictures: `[B, 3, height, width]` in 0..1, for SSIM.
    """

    latents: Tensor
    pictures: Tensor | None


def loss_target(
    kind: Consistency, latents: Tensor, decode: Callable[[Tensor], Tensor]
) -> LossTarget:
    """The target that the latents `[T + 1, B, ...]` of a full run give."""
    if kind is Consistency.STEPS:
        return LossTarget(latents[1:], None)
    pictures = decode(latents[-1]) if kind is Consistency.SSIM else None
    return LossTarget(latents[-1:], pictures)


def consistency_loss(
    latents: Tensor, target: LossTarget, decode: Callable[[Tensor], Tensor]
) -> Tensor:
    """Mean over the batch of 1 - SSIM, or of the relative squared error of the latents.

    Args:
        latents: of the gated run, `[T + 1, B, ...]`.
        target: of the full run with the same prompts and noise.
        decode: latents `[B, ...]` to pictures.
    """
    if target.pictures is not None:
        return (1 - ssim(decode(latents[-1]), target.pictures)).mean()
    found = latents[-len(target.latents) :]
    error = (found - target.latents).square().flatten(2).mean(2)
    return (error / target.latents.square().flatten(2).mean(2)).mean()


def sparsity_loss(gates: Tensor, costs: Tensor) -> Tensor:
    """Mean over steps of what the gates `[T, N, A]` cost, `costs` being `[T, N, A]` or `[N, A]`."""
    return (gates * costs).sum((1, 2)).mean()


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity of pictures `[B, 3, height, width]` in 0..1, `[B]`.

    Wang et al. 2004, equation 13, with C1 = 0.01^2 and C2 = 0.03^2, averaged over channels and over
    the places where the whole window fits.
    """
    if a.ndim == 5:
        frames = ssim(a.flatten(0, 1), b.flatten(0, 1))
        return frames.reshape(a.shape[:2]).mean(1)
    if min(a.shape[2:]) < WINDOW:
        msg = (
            f"SSIM needs pictures of {WINDOW} x {WINDOW} pixels or more, but these have "
            f"{a.shape[2]} x {a.shape[3]}; compare latents instead"
        )
        raise SearchError(msg)
    found: Tensor = msssim.ssim(a, b, data_range=1, size_average=False)
    return found
