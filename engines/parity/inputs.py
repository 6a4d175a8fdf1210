"""The inputs of a run, the same for PyTorch and every engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engines.guidance import guidance_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from exporter.bundle import Bundle


@dataclass(frozen=True)
class RunInputs:
    """All that a user can choose about a run.

    Attributes:
        prompt: a text, or a class name or number.
        negative: the negative prompt; empty for none.
        guidance: scale.
        seed: of the noises.
        latents: given ones `[B, C, H, W]`, or None where the run starts from noise.
    """

    prompt: str
    negative: str
    guidance: float
    seed: int
    latents: NDArray[np.float32] | None


def inputs_of(
    bundle: Bundle, *, prompt: str, seed: int, negative: str, guidance: float | None
) -> RunInputs:
    """The inputs of a run of `bundle`; a guidance of None is the bundle's.

    Raises:
        EngineError: the bundle takes no negative prompt, or not this scale.
    """
    scale = guidance_of(bundle, guidance, negative)
    return RunInputs(prompt, negative, scale, seed, given_latents(bundle, seed))


def given_latents(bundle: Bundle, seed: int) -> NDArray[np.float32] | None:
    """Some for a bundle that begins from given latents; None for one that begins from noise."""
    if not bundle.sampler.given:
        return None
    return np.random.default_rng(seed).standard_normal(bundle.latent_shape, np.float32)
