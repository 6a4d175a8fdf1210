"""Text to image with perturbed attention (Ahn et al. 2024): one more batch in each call."""

from __future__ import annotations

import inspect
from functools import partial
from typing import TYPE_CHECKING

from diffusers import (
    HunyuanDiTPAGPipeline,
    KolorsPAGPipeline,
    PixArtSigmaPAGPipeline,
    SanaPAGPipeline,
    StableDiffusion3PAGPipeline,
    StableDiffusionPAGPipeline,
    StableDiffusionXLPAGPipeline,
)

from benchmarks.families import image_classic, image_llm, image_llm_other, image_t5
from benchmarks.families.toy import Toy

if TYPE_CHECKING:
    from collections.abc import Callable

    from diffusers import DiffusionPipeline


def perturbed(
    cls: type[DiffusionPipeline], build: Callable[[], DiffusionPipeline]
) -> DiffusionPipeline:
    """The parts of another pipeline; attention is perturbed in the layer that `cls` says."""
    takes = inspect.signature(cls).parameters
    parts = {name: part for name, part in build().components.items() if name in takes}
    if "requires_safety_checker" in takes:
        parts["requires_safety_checker"] = False
    return cls(**parts)


TOYS = tuple(
    Toy(cls.__name__, partial(perturbed, cls, toy.build), toy.call)
    for cls, toy in (
        (StableDiffusionPAGPipeline, image_classic.TOYS[0]),
        (StableDiffusionXLPAGPipeline, image_classic.TOYS[1]),
        (StableDiffusion3PAGPipeline, image_classic.TOYS[2]),
        (PixArtSigmaPAGPipeline, image_classic.TOYS[5]),
        (SanaPAGPipeline, image_llm.TOYS[6]),
        (KolorsPAGPipeline, image_llm_other.TOYS[6]),
        (HunyuanDiTPAGPipeline, image_t5.TOYS[1]),
    )
)
