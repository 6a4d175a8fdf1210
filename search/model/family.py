"""What stepcarve must know about a kind of pipeline, and the list of the kinds it knows."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from search.errors import SearchError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from search.prompt import PromptInput
    from search.subnet import Granularity


@dataclass(frozen=True)
class Request:
    """What to sample.

    Attributes:
        prompts: texts, or class names or numbers for class-conditional pipelines; one per image.
        steps: inference steps given to the scheduler.
        guidance: classifier-free guidance scale; 1 or less switches it off.
        negative: what to guide away from.
        latents: initial noise of unit variance, `[B, C, H, W]`, or None to draw it.
        height: of the image in pixels, or None for the pipeline's default.
        width: likewise.
    """

    prompts: tuple[str, ...]
    steps: int
    guidance: float
    negative: str = ""
    latents: Tensor | None = None
    height: int | None = None
    width: int | None = None

    @property
    def guided(self) -> bool:
        """Whether every call sees a conditional and an unconditional half."""
        return self.guidance > 1


class Conditioner(Protocol):
    """A module from prompt inputs to the denoiser's conditions, `{name: [batch, ...]}`."""

    def __call__(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Return the conditions of one call of the denoiser."""


class Family(Protocol):
    """A kind of pipeline: how it calls its denoiser and what its blocks are.

    Attributes:
        pipeline: class name of the diffusers pipeline.
        component: attribute of the pipeline that is the denoiser.
        sample: the denoiser's argument that takes the latents.
        timestep: the denoiser's argument that takes the timestep.
        default_prompt: a prompt that any such pipeline accepts.
        scales_latents: whether the pipeline multiplies its noise by `init_noise_sigma` and hands
            the scheduler unscaled latents; if not, samplers that need that give noise.
    """

    pipeline: str
    component: str
    sample: str
    timestep: str
    default_prompt: str
    scales_latents: bool

    def blocks(self, denoiser: Any, granularity: Granularity) -> list[str]:
        """Names of the submodules that are blocks at `granularity`."""

    def predict(self, output: Tensor, channels: int, guidance: Tensor | None) -> Tensor:
        """The noise prediction `[B, C, H, W]` from the denoiser's raw output, guidance applied."""

    def call(self, pipe: Any, request: Request, generator: torch.Generator | None) -> Any:
        """Run diffusers' own pipeline; the images are `[B, H, W, 3]` float in 0..1."""

    def prompt_inputs(self, pipe: Any, *, guided: bool) -> list[PromptInput]:
        """What the conditioner takes, in order."""

    def conditioner(self, pipe: Any, *, guided: bool, batch: int) -> nn.Module:
        """A `Conditioner` for `batch` images of one prompt."""


FAMILIES: dict[str, str] = {
    "StableDiffusionPipeline": "search.model.unet:StableDiffusion",
    "DiTPipeline": "search.model.dit:ClassConditionalDiT",
}
"""Pipeline class -> module and class of its family."""


def family_of(pipeline_class: str) -> Family:
    """The family of a pipeline class; an unknown one is refused with the known ones named."""
    if pipeline_class not in FAMILIES:
        msg = (
            f"no family for the pipeline class {pipeline_class!r}; stepcarve knows "
            f"{', '.join(sorted(FAMILIES))}, and search/model/family.py says how to add one"
        )
        raise SearchError(msg)
    module, name = FAMILIES[pipeline_class].split(":")
    family: Family = getattr(importlib.import_module(module), name)()
    return family
