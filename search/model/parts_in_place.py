"""Parts of a diffusers pipeline, or how it is called, replaced for the length of a `with` block."""

from __future__ import annotations

import inspect
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from diffusers import ModelMixin
from torch import nn
from transformers import PreTrainedModel

from search.model.replaced import replaced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def decoders_of(pipe: Any) -> dict[str, nn.Module]:
    """The parts of a pipeline that can decode latents, by name; a pipeline of pixels has none."""
    return {
        name: part
        for name, part in pipe.components.items()
        if isinstance(part, nn.Module) and hasattr(part, "decode")
    }


@contextmanager
def on_vae_device(pipe: Any) -> Iterator[None]:
    """While open, the pipeline works on its decoder's device, or the CPU: models may be on the meta device.

    These say that they are there too, since pipelines put what they make where a model is.
    """
    part: Any = next(iter(decoders_of(pipe).values()), None)
    on = torch.device("cpu") if part is None or part.device.type == "meta" else part.device
    device = property(lambda _: on)

    def device_of(module: nn.Module) -> torch.device:
        found = next((each.device for each in module.parameters()), on)
        return on if found.type == "meta" else found

    with ExitStack() as stack:
        for name in ("_execution_device", "device"):
            stack.enter_context(replaced(type(pipe), name, device))
        for cls in (ModelMixin, PreTrainedModel):
            stack.enter_context(replaced(cls, "device", property(device_of)))
        yield


@contextmanager
def with_parts(pipe: Any, **parts: Any) -> Iterator[None]:
    """While open, these attributes of the pipeline are others."""
    with ExitStack() as stack:
        for name, part in parts.items():
            stack.enter_context(_replaced_entry(vars(pipe), name, part))
        yield


@contextmanager
def _replaced_entry(entries: dict[str, Any], name: str, value: Any) -> Iterator[None]:
    """While open, the entry `name` is `value`; a pipeline's own `__setattr__` would note it down."""
    had, before = name in entries, entries.get(name)
    entries[name] = value
    try:
        yield
    finally:
        if had:
            entries[name] = before
        else:
            del entries[name]


@contextmanager
def with_gradients(pipe: Any) -> Iterator[None]:
    """While open, the pipeline's call leaves the mode of automatic differentiation alone."""
    call: Callable[..., Any] = inspect.unwrap(type(pipe).__call__)
    with replaced(type(pipe), "__call__", call):
        yield
