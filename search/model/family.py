"""The record of a family of pipelines, and the list of known families."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, replace
from importlib import metadata
from typing import TYPE_CHECKING, Any, Protocol

from search.core.errors import SearchError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch
    from tokenizers import Tokenizer
    from torch import Tensor, nn

    from search.core.prompt import PromptInput
    from search.core.subnet import Granularity
    from search.core.timestep_grid import TimestepGrid
    from search.model.pipeline import Pipeline


FAMILIES: dict[str, str] = {
    "StableDiffusionPipeline": "search.model.families.unet:StableDiffusion",
    "StableDiffusionXLPipeline": "search.model.families.unet:StableDiffusionXL",
    "StableDiffusion3Pipeline": "search.model.families.sd3:StableDiffusion3",
    "FluxPipeline": "search.model.families.flux:Flux",
    "PixArtAlphaPipeline": "search.model.families.pixart:PixArtAlpha",
    "PixArtSigmaPipeline": "search.model.families.pixart:PixArtSigma",
    "AuraFlowPipeline": "search.model.families.aura_flow:AuraFlow",
    "DiTPipeline": "search.model.families.dit:ClassConditionalDiT",
}
"""Pipeline class -> module and class of its family."""
ENTRY_POINTS = "stepcarve.families"
"""Group in which other packages name theirs: pipeline class = module:class."""


@dataclass(frozen=True)
class Request:
    """What to sample.

    Attributes:
        prompts: texts, or class names or numbers for class-conditional pipelines.
        steps: inference steps given to the scheduler.
        guidance: scale; what it means is the pipeline's affair.
        negative: what to guide away from; empty is the same as none.
        latents: initial noise of unit variance, `[B, ...]`, or None to draw it.
        height: of the image in pixels, or None for the pipeline's default.
        width: likewise.
        images: per prompt.
        output: `np` or `pt`, the images' library; `pt` gives `[B, 3, H, W]`.
        timesteps: a custom grid; empty leaves it to the scheduler.
        sigmas: a custom grid as noise levels; likewise.
    """

    prompts: tuple[str, ...]
    steps: int
    guidance: float
    negative: str = ""
    latents: Tensor | None = None
    height: int | None = None
    width: int | None = None
    images: int = 1
    output: str = "np"
    timesteps: tuple[float, ...] = ()
    sigmas: tuple[float, ...] = ()

    def on(self, grid: TimestepGrid) -> Request:
        """The same on another grid."""
        return replace(
            self,
            steps=grid.inference_steps,
            timesteps=grid.custom_timesteps,
            sigmas=grid.custom_sigmas,
        )

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width, or None for the pipeline's default."""
        return None if self.height is None or self.width is None else (self.height, self.width)

    @property
    def grid_arguments(self) -> dict[str, Any]:
        """The arguments of a pipeline's call that say which timesteps to take."""
        custom: dict[str, Any] = {"num_inference_steps": self.steps}
        if self.timesteps:
            # Whole numbers are integers in diffusers.
            custom["timesteps"] = [int(t) if t == int(t) else t for t in self.timesteps]
        if self.sigmas:
            custom["sigmas"] = list(self.sigmas)
        return custom

    def sized(self, size: tuple[int, int] | None) -> Request:
        """The same at another size (height, width); None is the pipeline's default."""
        height, width = size or (None, None)
        return replace(self, height=height, width=width)


class Conditioner(Protocol):
    """A module from prompt inputs to the denoiser's conditions.

    Attributes:
        inputs: what it takes, in order.
        tokenizers: the files that turn texts into these, by name.
    """

    inputs: Sequence[PromptInput]
    tokenizers: Mapping[str, Tokenizer]

    def eval(self) -> nn.Module:
        """The module, `forward(*inputs) -> {name: [batch, ...]}`."""


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
        steps_latents: whether what the scheduler steps is the latents alone; if not, samplers that
            draw noise draw more than that of the pictures.
    """

    pipeline: str
    component: str
    sample: str
    timestep: str
    default_prompt: str
    scales_latents: bool
    steps_latents: bool

    def blocks(self, denoiser: Any, granularity: Granularity) -> list[str]:
        """Names of the submodules that are blocks at `granularity`."""

    def is_branch(self, module: Any) -> bool:
        """Whether a block is a residual branch: its output is added outside it, so its base is zeros."""

    def predict(self, output: Tensor, channels: int, guidance: Tensor | None) -> Tensor:
        """The noise prediction from the denoiser's raw output, in the shape of the latents `[B, ...]`.

        Args:
            output: `[B, ...]` or, guided, `[2 * B, ...]`.
            channels: size of dimension 1 of the latents.
            guidance: scale `[]`, or None where there are no halves.
        """

    def call(self, pipe: Any, request: Request, generator: torch.Generator | None) -> Any:
        """Run diffusers' own pipeline; the images are `[B, H, W, 3]` float in 0..1."""

    def classes(self, pipe: Any) -> int:
        """Number of classes that a prompt may name; 0 if prompts are texts."""

    def conditioner(self, pipeline: Pipeline, request: Request) -> Conditioner:
        """For `request.images` images of one prompt, whatever it says."""


def family_of(pipeline_class: str) -> Family:
    """The family of a pipeline class; an unknown one is refused with the known ones named."""
    if pipeline_class in FAMILIES:
        module, name = FAMILIES[pipeline_class].split(":")
        family: Family = getattr(importlib.import_module(module), name)()
        return family
    others = {each.name: each for each in metadata.entry_points(group=ENTRY_POINTS)}
    if pipeline_class not in others:
        known = ", ".join(sorted(FAMILIES.keys() | others.keys()))
        msg = (
            f"no family for the pipeline class {pipeline_class!r}; stepcarve knows {known}, and "
            "docs/add-a-family.md says how to add one"
        )
        raise SearchError(msg)
    other: Family = others[pipeline_class].load()()
    return other
