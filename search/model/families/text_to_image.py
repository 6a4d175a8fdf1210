"""What pipelines have in common: how they are called, and what their blocks are."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from search.core.prompt import class_number
from search.core.subnet import Granularity
from search.model.encoding import LABELS
from search.model.entry import FRAMES, in_latents, latents_replaced
from search.model.families.unet import UNET_LAYERS, is_unet, unet_blocks
from search.model.halves import making
from search.model.pictures import picture_arguments

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from search.model.family import Conditioner, OpenedPipeline, Request

_LAYER = re.compile(r"(Attention|Attn|FeedForward|FFN|MLP|Mlp|GLUMBConv)\w*$")
"""Classes of modules that are layers of a transformer block."""
_NO_LAYER = re.compile(r"(Processor|Block|Pooling|Projection|Norm)\w*$")
NO_CLASS = 1000
"""How many classes there are at most: pipelines give this label for "no class"."""
SCALES = ("true_cfg_scale", "guidance_scale")
"""Arguments of a pipeline's call that say how strongly it guides; the first with a default above 1."""


class TextToImage:
    """Any pipeline of diffusers; a subclass says what is special about a kind of them.

    Attributes:
        pipeline: class name of the diffusers pipeline.
        component: the attribute of the pipeline that is the denoiser.
        stacks: the denoiser's lists of blocks; None finds them.
        layers: classes of the modules inside that are blocks too at layer granularity; None finds them.
        settings: further arguments of the pipeline's call.
        unset: arguments that are None where nothing is asked for, whatever their default is.
    """

    pipeline = "DiffusionPipeline"
    component = "transformer"
    stacks: tuple[str, ...] | None = None
    layers: frozenset[str] | None = None
    unset: tuple[str, ...] = ()
    settings: Mapping[str, Any] = {"clean_caption": False, "use_resolution_binning": False}

    def __init__(self, pipeline: str | None = None, component: str | None = None) -> None:
        self.pipeline = pipeline or self.pipeline
        self.component = component or self.component

    @property
    def default_prompt(self) -> str:
        """A prompt that any such pipeline accepts."""
        import diffusers

        cls = getattr(diffusers, self.pipeline, None)
        return "0" if cls is not None and _takes_labels(cls) else ""

    def blocks(self, denoiser: Any, granularity: Granularity) -> list[str]:
        """Names of the denoiser's blocks.

        Of a U-Net see `unet_blocks`. Of a transformer, stage and branch: the modules of its lists of
        modules; layer: with their attention and feed-forward modules.
        """
        if self.stacks is None and is_unet(denoiser):
            return unet_blocks(denoiser, granularity)
        names = []
        for stack in stacks_of(denoiser) if self.stacks is None else self.stacks:
            for number, block in enumerate(denoiser.get_submodule(stack)):
                name = f"{stack}.{number}"
                names.append(name)
                if granularity is Granularity.LAYER:
                    names += [f"{name}.{inner}" for inner in self._layers_of(block)]
        return names

    def _layers_of(self, block: nn.Module) -> Iterator[str]:
        """The layers inside a block, outermost only."""
        found: list[str] = []
        for name, module in block.named_modules():
            if name and self._is_layer(module) and not any(name.startswith(f"{o}.") for o in found):
                found.append(name)
                yield name

    def _is_layer(self, module: Any) -> bool:
        cls = type(module).__name__
        if self.layers is not None:
            return cls in self.layers
        return bool(_LAYER.search(cls)) and not _NO_LAYER.search(cls)

    def is_branch(self, module: Any) -> bool:
        """Whether it is an attention or feed-forward module that does not do the addition itself."""
        return (
            self._is_layer(module)
            and type(module).__name__ not in UNET_LAYERS
            and not getattr(module, "residual_connection", False)
        )

    def call(self, pipe: Any, request: Request, generator: torch.Generator | None) -> Any:
        """Run diffusers' own pipeline; the pictures are `[B, H, W, 3]`, or `[B, F, H, W, 3]` of videos."""
        takes = call_parameters(pipe)
        arguments = self.arguments(pipe, request) | {"generator": generator}
        known = {
            name: value
            for name, value in arguments.items()
            if name in takes and (value is not None or name in (*self.unset, *self.settings))
        }
        given, pictures = request.latents, len(request.prompts) * request.images
        if given is None:
            with making(pictures):
                return _called(pipe, known)

        def entered(made: Tensor) -> Tensor:
            # What the pipeline prepares of ones is what it multiplies its noise by.
            ones = made[tuple(map(slice, given.shape))] if made.ndim == given.ndim else made
            return in_latents(made, given.to(made.device) * ones.to(given))

        with latents_replaced(pipe, entered), making(pictures):
            return _called(pipe, known)

    def arguments(self, pipe: Any, request: Request) -> dict[str, Any]:
        """What the pipeline's call may be given; it takes some of it."""
        scale = scale_argument(pipe)
        prompts = list(request.prompts)
        found: dict[str, Any] = {
            scale: request.guidance,
            **self.settings,
            **request.grid_arguments,
            **picture_arguments(pipe, request),
            "prompt": prompts,
            LABELS: self._class_labels(pipe, request),
            "num_images_per_prompt": request.images,
            "num_videos_per_prompt": request.images,
            "height": request.height,
            "width": request.width,
            "output_type": request.output,
            "return_dict": False,
        }
        if not _takes_texts(pipe):
            found["batch_size"] = len(prompts) * request.images
        if request.frames is not None:
            found.update(dict.fromkeys(FRAMES, request.frames))
        if request.negative or (scale == SCALES[0] and request.is_guided):
            found["negative_prompt"] = [request.negative] * len(prompts)
        return found

    def _class_labels(self, pipe: Any, request: Request) -> list[Any] | None:
        """The classes of a request as its pipeline takes them: numbers, or tensors `[]` in a trace."""
        if request.labels is not None:
            return list(request.labels.unbind())
        labels = self.labels(pipe, request)
        return None if labels is None else labels.tolist()

    def labels(self, pipe: Any, request: Request) -> Tensor | None:
        """The class numbers of a request's pictures, `[B]`; None if prompts are texts."""
        classes = self.classes(pipe)
        if not classes:
            return None
        names = getattr(pipe, "labels", {})
        numbers = [class_number(prompt, names, classes) for prompt in request.prompts]
        return torch.tensor(numbers).repeat_interleave(request.images)

    def classes(self, pipe: Any) -> int:
        """Number of classes that a prompt may name; 0 if prompts are texts."""
        if not _takes_labels(type(pipe)):
            return 0
        config = getattr(pipe, self.component).config
        named = (config.get(name) for name in ("num_embeds_ada_norm", "num_class_embeds"))
        return min(int(next(filter(None, named), 0)), NO_CLASS)

    def conditioner(self, pipeline: OpenedPipeline, request: Request) -> Conditioner:
        """The pipeline up to its first call of the denoiser."""
        from search.model.conditioner import TextConditioner
        from search.model.labels import LabelConditioner, NoConditioner

        classes = self.classes(pipeline.pipe)
        if classes:
            return LabelConditioner(classes, images=request.images)
        if not _takes_texts(pipeline.pipe):
            return NoConditioner()
        return TextConditioner(pipeline, request)


def stacks_of(denoiser: nn.Module) -> list[str]:
    """The outermost lists of modules of a denoiser, in order."""
    found: list[str] = []
    for name, module in denoiser.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in found)
        if isinstance(module, nn.ModuleList) and not inside and _holds_blocks(module):
            found.append(name)
    return found


def _holds_blocks(modules: nn.ModuleList) -> bool:
    """Whether a list's modules contain layers: attention or feed-forward."""
    return any(_LAYER.search(type(inner).__name__) for inner in modules.modules())


def call_parameters(pipe: Any) -> Mapping[str, inspect.Parameter]:
    """The parameters of a pipeline's call."""
    return inspect.signature(inspect.unwrap(type(pipe).__call__)).parameters


def _takes_labels(cls: type) -> bool:
    """Whether a class of pipelines is told the class of its pictures."""
    return LABELS in inspect.signature(inspect.unwrap(cls.__call__)).parameters


def _called(pipe: Any, arguments: Mapping[str, Any]) -> Any:
    """The first result of a pipeline's call; an empty negative prompt if it cannot do without one."""
    try:
        return pipe(**arguments)[0]
    except TypeError as error:
        takes = "negative_prompt" in call_parameters(pipe)
        if not takes or arguments.get("negative_prompt") or "NoneType" not in str(error):
            raise
        empty = [""] * len(arguments["prompt"])
    return pipe(**arguments, negative_prompt=empty)[0]


def _takes_texts(pipe: Any) -> bool:
    """Whether a pipeline's call takes a prompt."""
    return "prompt" in call_parameters(pipe)


def scale_argument(pipe: Any) -> str:
    """The argument of a pipeline's call that takes the guidance scale."""
    takes = call_parameters(pipe)
    true, embedded = (takes.get(name) for name in SCALES)
    if true is not None and (embedded is None or _default(true) > 1):
        return SCALES[0]
    return SCALES[1]


def _default(parameter: inspect.Parameter) -> float:
    value = parameter.default
    return float(value) if isinstance(value, int | float) else 1.0
