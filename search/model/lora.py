"""LoRAs fused into a pipeline's weights, by diffusers' own loader."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from search.core.errors import SearchError
from search.model.pipeline import Pipeline, open_pipeline

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from search.core.lora import Lora


def fuse(pipe: Any, loras: Sequence[Lora]) -> None:
    """Fuse `loras` into the weights of diffusers' pipeline, one after the other.

    Raises:
        SearchError: a file is missing or has changed, or does not fit the pipeline.
    """
    if loras:
        _require_support(pipe)
    for lora in loras:
        _fuse(pipe, lora)


def take_fused(pipeline: Pipeline, loras: Sequence[Lora]) -> None:
    """Give a pipeline that was opened without weights those of `loras` fused.

    Its parts are loaded, and of the denoiser the tensors that differ from those on disk. What it is
    stays: its fingerprint is that of the weights on disk.

    Raises:
        SearchError: see `fuse`.
    """
    component = pipeline.family.component
    whole = open_pipeline(pipeline.path)
    fuse(whole.pipe, loras)
    parts = {n: p for n, p in whole.pipe.components.items() if isinstance(p, nn.Module)}
    denoiser = parts.pop(component)
    pipeline.pipe.register_modules(**parts)
    on_disk = pipeline.weights
    for name, tensor in denoiser.state_dict().items():
        if not torch.equal(tensor, on_disk.tensor(name).to(tensor.dtype)):
            on_disk.replace(name, tensor)


def _require_support(pipe: Any) -> None:
    """Refuse a pipeline that takes no LoRA, and a missing package."""
    if not hasattr(pipe, "load_lora_weights"):
        msg = f"diffusers loads no LoRA into a {type(pipe).__name__}; export without --lora"
        raise SearchError(msg)
    if find_spec("peft") is None:
        msg = "diffusers loads LoRAs with peft, which is not installed; pip install peft, or stepcarve[lora]"
        raise SearchError(msg)


def _fuse(pipe: Any, lora: Lora) -> None:
    """Load, fuse and unload one LoRA."""
    lora.require()
    shapes = dict(_shapes(pipe))
    try:
        pipe.load_lora_weights(
            str(lora.file.parent), weight_name=lora.file.name, local_files_only=True
        )
        changed = [name for name, part in _models(pipe) if _has_lora(part)]
        if changed:
            pipe.fuse_lora(components=changed, lora_scale=lora.scale, safe_fusing=True)
        pipe.unload_lora_weights()
    except Exception as error:  # the libraries have no common class for what does not fit
        msg = (
            f"the LoRA {str(lora.file)!r} does not fit this {type(pipe).__name__}: "
            f"{' '.join(str(error).split())[:300]}; give one that was trained for this pipeline"
        )
        raise SearchError(msg) from error
    if not changed:
        msg = (
            f"the LoRA {str(lora.file)!r} has weights for nothing in this {type(pipe).__name__}; give one "
            "that was trained for this pipeline"
        )
        raise SearchError(msg)
    unlike = shapes.items() ^ dict(_shapes(pipe)).items()
    if unlike:
        msg = (
            f"the LoRA {str(lora.file)!r} changes the shape of {min(unlike)[0]!r}, so the pipeline would be "
            "another one; save that pipeline with diffusers, and search on it"
        )
        raise SearchError(msg)


def _models(pipe: Any) -> Iterator[tuple[str, nn.Module]]:
    for name, part in pipe.components.items():
        if isinstance(part, nn.Module):
            yield name, part


def _shapes(pipe: Any) -> Iterator[tuple[str, tuple[int, ...]]]:
    for part, model in _models(pipe):
        for name, tensor in model.state_dict().items():
            yield f"{part}.{name}", tuple(tensor.shape)


def _has_lora(model: nn.Module) -> bool:
    """Whether a LoRA is attached to any of the layers."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return any(isinstance(module, BaseTunerLayer) for module in model.modules())
