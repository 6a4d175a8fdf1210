"""Text to image by the classes of 2022 to 2024 that the tests build too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffusers import (
    LatentConsistencyModelPipeline,
)

from benchmarks.families.toy import Toy
from benchmarks.families.weights import with_random_weights
from tests import pipelines

if TYPE_CHECKING:
    from diffusers import (
        AuraFlowPipeline,
        DiTPipeline,
        FluxPipeline,
        PixArtAlphaPipeline,
        PixArtSigmaPipeline,
        StableDiffusion3Pipeline,
        StableDiffusionPipeline,
        StableDiffusionXLPipeline,
    )


def stable_diffusion() -> StableDiffusionPipeline:
    """Three levels, DDIM."""
    return with_random_weights(pipelines.three_levels(), 40)


def stable_diffusion_xl() -> StableDiffusionXLPipeline:
    """Two levels, two text encoders, Euler."""
    return with_random_weights(pipelines.sdxl(), 41)


def stable_diffusion_3() -> StableDiffusion3Pipeline:
    """Three joint blocks, three text encoders."""
    return with_random_weights(pipelines.sd3(), 42)


def flux() -> FluxPipeline:
    """FLUX.1 dev: guidance is an input of its network."""
    return with_random_weights(pipelines.flux(guidance=True), 43)


def pixart_alpha() -> PixArtAlphaPipeline:
    """Three blocks, told the resolution."""
    return with_random_weights(pipelines.pixart(sigma=False), 44)


def pixart_sigma() -> PixArtSigmaPipeline:
    """Three blocks."""
    return with_random_weights(pipelines.pixart(sigma=True), 45)


def aura_flow() -> AuraFlowPipeline:
    """Two joint blocks and one single one."""
    return with_random_weights(pipelines.aura_flow(), 46)


def dit() -> DiTPipeline:
    """Asked for a class, predicts variances too."""
    return with_random_weights(pipelines.learned_variance(), 47)


def latent_consistency() -> LatentConsistencyModelPipeline:
    """Guidance is an input of its network, each step adds noise."""
    parts = pipelines.lcm().components
    pipe = LatentConsistencyModelPipeline(**parts, requires_safety_checker=False)
    return with_random_weights(pipe, 48)


SQUARE = {"height": 16, "width": 16}
SHORT = {**SQUARE, "max_sequence_length": 24}
PIXART = {"max_sequence_length": 24, "use_resolution_binning": False, "clean_caption": False}

TOYS = (
    Toy("StableDiffusionPipeline", stable_diffusion),
    Toy("StableDiffusionXLPipeline", stable_diffusion_xl),
    Toy("StableDiffusion3Pipeline", stable_diffusion_3, SHORT),
    Toy("FluxPipeline", flux, {"height": 32, "width": 32, "max_sequence_length": 24}),
    Toy("PixArtAlphaPipeline", pixart_alpha, {**SQUARE, **PIXART}),
    Toy("PixArtSigmaPipeline", pixart_sigma, {**SQUARE, **PIXART}),
    Toy("AuraFlowPipeline", aura_flow, SHORT),
    Toy("DiTPipeline", dit, {"class_labels": [1]}),
    Toy("LatentConsistencyModelPipeline", latent_consistency),
)
