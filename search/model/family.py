"""The record of a family of pipelines, and the list of known families."""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass, replace
from importlib import metadata
from typing import TYPE_CHECKING, Any, Protocol

from search.core.errors import SearchError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch
    from PIL.Image import Image
    from tokenizers import Tokenizer
    from torch import Tensor, nn

    from search.core.prompt import PromptInput
    from search.core.subnet import Granularity
    from search.core.timestep_grid import TimestepGrid


FAMILIES: dict[str, str] = {
    "AuraFlowPipeline": "search.model.families.aura_flow:AuraFlow",
}
"""Pipeline class -> module and class of its family, for those that are unlike others."""
ENTRY_POINTS = "stepcarve.families"
"""Group in which other packages name theirs: pipeline class = module:class."""
DENOISERS = ("unet", "transformer")
"""The usual names of the part that is called at every step."""


@dataclass(frozen=True)
class Request:
    """What to sample.

    Attributes:
        prompts: texts, or class names or numbers for class-conditional pipelines.
        steps: inference steps given to the scheduler.
        guidance: scale, a number or a tensor `[]`; what it means is the pipeline's affair.
        negative: what to guide away from; empty is the same as none.
        latents: initial noise of unit variance, `[B, ...]`, or None to draw it.
        height: of the image in pixels, or None for the pipeline's default.
        width: likewise.
        images: per prompt.
        output: `np` or `pt`, the images' library; `pt` gives `[B, 3, H, W]`.
        timesteps: a custom grid; empty leaves it to the scheduler.
        sigmas: a custom grid as noise levels; likewise.
        frames: of a video; None is the pipeline's default.
        guides: whether `guidance` is a scale above 1; only a tensor does not say so itself.
        labels: class numbers `[B]` that take the place of those that `prompts` name.
        seed: of the noise that autoencoders draw; None leaves it to torch.
        pictures: `image` and `mask`, of PIL, as far as the pipeline needs them; None takes examples.
    """

    prompts: tuple[str, ...]
    steps: int
    guidance: float | Tensor
    negative: str = ""
    latents: Tensor | None = None
    height: int | None = None
    width: int | None = None
    images: int = 1
    output: str = "np"
    timesteps: tuple[float, ...] = ()
    sigmas: tuple[float, ...] = ()
    frames: int | None = None
    labels: Tensor | None = None
    seed: int | None = None
    pictures: Mapping[str, Image] | None = None
    guides: bool | None = None

    @property
    def is_guided(self) -> bool:
        """Whether the scale is above 1."""
        return self.guidance > 1 if self.guides is None else self.guides  # type: ignore[return-value]

    def on(self, grid: TimestepGrid) -> Request:
        """The same on another grid."""
        return replace(
            self,
            steps=grid.inference_steps,
            timesteps=grid.custom_timesteps,
            sigmas=grid.custom_sigmas,
        )

    @property
    def size(self) -> tuple[int, ...] | None:
        """Height, width and a video's frames, or None for the pipeline's default."""
        if self.height is None or self.width is None:
            return None
        frames = () if self.frames is None else (self.frames,)
        return self.height, self.width, *frames

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

    def sized(self, size: tuple[int, ...] | None) -> Request:
        """The same at another size (height, width, frames); None is the pipeline's default."""
        if size is None:
            return replace(self, height=None, width=None, frames=None)
        height, width, *frames = size
        return replace(self, height=height, width=width, frames=frames[0] if frames else None)


class Conditioner(Protocol):
    """A module from prompt inputs to the denoiser's conditions.

    Attributes:
        inputs: what it takes, in order.
        tokenizers: the files that turn texts into these, by name.
    """

    @property
    def inputs(self) -> Sequence[PromptInput]:
        """See the attributes."""

    @property
    def tokenizers(self) -> Mapping[str, Tokenizer]:
        """See the attributes."""

    def eval(self) -> nn.Module:
        """The module, `forward(*inputs) -> {name: [batch, ...]}`."""


class OpenedPipeline(Protocol):
    """A diffusers pipeline and what is known of its kind; `search.model.pipeline.Pipeline` is one."""

    @property
    def pipe(self) -> Any:
        """The diffusers pipeline."""

    @property
    def family(self) -> Family:
        """Its kind."""

    @property
    def default_prompt(self) -> str:
        """A prompt that the pipeline accepts."""

    @property
    def denoiser(self) -> Any:
        """The U-Net or transformer that is called at the steps; the first of `networks`."""

    @property
    def networks(self) -> Mapping[str, Any]:
        """The denoiser, and other parts of its class, by name."""

    def load_around(self) -> None:
        """Load the weights of all models but the denoiser, if they are not loaded yet."""


class Family(Protocol):
    """A kind of pipeline: how it is called and what its blocks are.

    Attributes:
        pipeline: class name of the diffusers pipeline.
        component: attribute of the pipeline that is the denoiser.
        settings: further arguments of the pipeline's call.
        default_prompt: a prompt that any such pipeline accepts.
    """

    pipeline: str
    component: str
    settings: Mapping[str, Any]

    @property
    def default_prompt(self) -> str:
        """See the attributes."""

    def blocks(self, denoiser: Any, granularity: Granularity) -> list[str]:
        """Names of the submodules that are blocks at `granularity`."""

    def is_branch(self, module: Any) -> bool:
        """Whether a block is a residual branch: its output is added outside it, so its base is zeros."""

    def call(self, pipe: Any, request: Request, generator: torch.Generator | None) -> Any:
        """Run diffusers' own pipeline; the images are `[B, H, W, 3]` float in 0..1."""

    def labels(self, pipe: Any, request: Request) -> Tensor | None:
        """The class numbers of a request's pictures, `[B]`; None if prompts are texts."""

    def classes(self, pipe: Any) -> int:
        """Number of classes that a prompt may name; 0 if prompts are texts."""

    def conditioner(self, pipeline: OpenedPipeline, request: Request) -> Conditioner:
        """For `request.images` images of one prompt, whatever it says."""


def family_of(pipeline_class: str, parts: Mapping[str, Any] | None = None) -> Family:
    """The family of a pipeline class.

    Args:
        pipeline_class: its name.
        parts: of the pipeline, as its model_index.json lists them; None looks at the class of diffusers.

    Raises:
        SearchError: no part of it is known as a denoiser.
    """
    from search.model.families.text_to_image import TextToImage

    if pipeline_class in FAMILIES:
        module, name = FAMILIES[pipeline_class].split(":")
        family: Family = getattr(importlib.import_module(module), name)()
        return family
    others = {each.name: each for each in metadata.entry_points(group=ENTRY_POINTS)}
    if pipeline_class in others:
        other: Family = others[pipeline_class].load()()
        return other
    if parts is None:
        parts = _parts_of(pipeline_class)
    return TextToImage(pipeline_class, _denoiser_of(pipeline_class, parts))


def _parts_of(pipeline_class: str) -> dict[str, Any]:
    """The parts that a class of diffusers takes."""
    import diffusers

    cls = getattr(diffusers, pipeline_class, None)
    if cls is None:
        msg = (
            f"diffusers {diffusers.__version__} has no pipeline class {pipeline_class!r}; update "
            "diffusers, or add a family for that class as docs/add-a-family.md says"
        )
        raise SearchError(msg)
    return dict(inspect.signature(cls.__init__).parameters)


def _denoiser_of(pipeline_class: str, parts: Mapping[str, Any]) -> str:
    """The name of the part that a pipeline calls at every step."""
    for name in DENOISERS:
        if parts.get(name):
            return name
    models = [
        name
        for name, entry in parts.items()
        if isinstance(entry, list) and _may_be_denoiser(str(entry[-1]))
    ]
    if len(models) != 1:
        msg = (
            f"of the parts of a {pipeline_class}, {models or 'none'} could be its denoiser; name it "
            "in a family as docs/add-a-family.md says"
        )
        raise SearchError(msg)
    return models[0]


def _may_be_denoiser(cls: str) -> bool:
    """Whether the name of a class is like that of a denoiser."""
    return ("Transformer" in cls or "UNet" in cls or cls.endswith("Model")) and not any(
        other in cls
        for other in ("Text", "Encoder", "Vision", "Autoencoder", "ControlNet", "CLIP", "T5", "VQ")
    )
