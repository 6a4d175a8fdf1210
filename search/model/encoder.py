"""A picture to the clean latents that a loop begins from: the start of diffusers' image-to-image pipeline."""

from __future__ import annotations

import inspect
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import wraps
from typing import TYPE_CHECKING, Any

import diffusers
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from search.core.errors import SearchError
from search.model.failures import pipeline_failures
from search.model.family import Request
from search.model.parts_in_place import on_vae_device, with_gradients, with_parts
from search.model.pictures import example_pictures, pictures_and_noise
from search.model.stand_in_scheduler import FixedScheduler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from search.core.prompt import PromptInput
    from search.model.pipeline import Pipeline


def text_to_image_of(cls: str) -> str:
    """The class that begins from noise, of one that begins from a picture; any other is its own."""
    found = getattr(diffusers, cls, None)
    if found is None or "image" not in inspect.signature(found.__call__).parameters:
        return cls
    from_text, from_image = _mappings()
    if any(each.__name__ == cls for each in from_text.values()):
        return cls
    keys = [key for key, each in from_image.items() if each.__name__ == cls and key in from_text]
    return str(from_text[keys[0]].__name__) if keys else cls


def image_to_image_of(cls: str) -> Any:
    """The class that begins from a picture, of one that begins from noise; None if there is none."""
    from_text, from_image = _mappings()
    keys = [key for key, each in from_text.items() if each.__name__ == cls and key in from_image]
    found: Any = from_image[keys[0]] if keys else None
    if found is None or found.__name__ == cls:
        return None
    takes = inspect.signature(found.__call__).parameters
    return None if "control_image" in takes else found


def _mappings() -> tuple[dict[str, Any], dict[str, Any]]:
    """What diffusers knows of models that both begin from texts and from pictures."""
    # Loads every pipeline that it knows.
    from diffusers.pipelines import auto_pipeline as auto

    return auto.AUTO_TEXT2IMAGE_PIPELINES_MAPPING, auto.AUTO_IMAGE2IMAGE_PIPELINES_MAPPING


class Encoder(nn.Module):
    """Diffusers' image-to-image pipeline up to its latents, with a scheduler that adds no noise.

    Attributes:
        inputs: the picture, and the noises that the autoencoder draws.
    """

    def __init__(self, pipeline: Pipeline, size: tuple[int, ...], images: int) -> None:
        """Prepare for pictures of `size` (height, width)."""
        super().__init__()
        pipeline.load_around()
        cls = image_to_image_of(type(pipeline.pipe).__name__)
        self._pipe, self._family = _sibling(pipeline.pipe, cls), pipeline.family
        self.vae = pipeline.pipe.vae.eval()
        self._request = Request((pipeline.default_prompt,), 1, 1.0, images=images).sized(size)
        self._scheduler = _Noiseless(torch.tensor([1.0]), pipeline.pipe.scheduler.config)
        self._texts: list[Any] = []
        self.inputs: list[PromptInput] = []
        with torch.no_grad():
            self._latents(self._note)

    def forward(self, *inputs: Tensor) -> Tensor:
        """What `inputs` says, in that order -> clean latents `[B, ...]` as the loop has them."""
        given = {each.name: tensor for each, tensor in zip(self.inputs, inputs, strict=True)}
        return self._latents(lambda noted: given[noted.name])

    def _note(self, noted: PromptInput) -> Tensor:
        self.inputs.append(noted)
        return torch.ones(noted.shape)

    def _latents(self, read: Callable[[PromptInput], Tensor]) -> Tensor:
        """Run the pipeline up to its latents; pictures and noise are `read`."""
        pipe, original = self._pipe, self._pipe.prepare_latents

        @wraps(original)
        def prepare(*args: Any, **kwargs: Any) -> None:
            made = original(*args, **kwargs)
            raise _PreparedError(next(x for x in pytree.tree_leaves(made) if isinstance(x, Tensor)))

        pictures = example_pictures(pipe, self._request)
        request = replace(self._request, pictures=pictures)
        try:
            with ExitStack() as stack:
                for each in (pipeline_failures(pipe), on_vae_device(pipe), with_gradients(pipe)):
                    stack.enter_context(each)
                stack.enter_context(pictures_and_noise(pipe, request, read))
                stack.enter_context(self._texts_known())
                stack.enter_context(
                    with_parts(pipe, scheduler=self._scheduler, prepare_latents=prepare)
                )
                self._family.call(pipe, request, torch.Generator())
        except _PreparedError as prepared:
            return prepared.latents
        msg = f"{type(pipe).__name__} prepares no latents; such pipelines are not supported"
        raise SearchError(msg)

    @contextmanager
    def _texts_known(self) -> Iterator[None]:
        """While open, the texts are encoded once: they do not change the latents."""
        original = self._pipe.encode_prompt

        def encode(*args: Any, **kwargs: Any) -> Any:
            if not self._texts:
                self._texts.append(original(*args, **kwargs))
            return self._texts[0]

        with with_parts(self._pipe, encode_prompt=encode):
            yield


class _PreparedError(Exception):
    """Ends a pipeline's call when its latents are prepared."""

    def __init__(self, latents: Tensor) -> None:
        super().__init__()
        self.latents = latents


class _Noiseless(FixedScheduler):
    """A stand-in for a pipeline's scheduler that leaves latents clean."""

    def add_noise(self, original_samples: Tensor, *_: Any, **__: Any) -> Tensor:
        """Nothing is added."""
        return original_samples

    def scale_noise(self, sample: Tensor, *_: Any, **__: Any) -> Tensor:
        """Likewise."""
        return sample


def _sibling(pipe: Any, cls: Any) -> Any:
    """A pipeline of another class with the same parts."""
    takes = inspect.signature(cls.__init__).parameters
    known = {**pipe.config, **pipe.components, "add_watermarker": False}
    made = cls(**{name: known[name] for name in takes if name in known})
    made.set_progress_bar_config(disable=True)
    return made
