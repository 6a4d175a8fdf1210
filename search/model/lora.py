"""LoRAs fused into a pipeline's weights, or beside them, by diffusers' own loader."""

from __future__ import annotations

from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from search.core.errors import SearchError
from search.model.live_lora import live_loras
from search.model.opening import open_pipeline
from search.model.weights import on_disk_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from search.core.lora import Lora
    from search.model.pipeline import Pipeline
    from search.model.weights import DenoiserWeights


def fuse(pipe: Any, loras: Sequence[Lora]) -> None:
    """Fuse `loras` into the weights of diffusers' pipeline, one after the other.

    Raises:
        SearchError: a file is missing or has changed, or does not fit the pipeline.
    """
    if loras:
        _require_support(pipe)
    for lora in loras:
        _fuse(pipe, lora)


def attach(pipe: Any, loras: Sequence[Lora]) -> None:
    """Let `loras` stand beside the weights of diffusers' pipeline, each at its scale.

    Raises:
        SearchError: see `fuse`.
    """
    if not loras:
        return
    _require_support(pipe)
    for lora in loras:
        lora.require()
        before = _with_lora(pipe, lora.name)
        with _fitting(pipe, lora):
            pipe.load_lora_weights(
                str(lora.file.parent),
                weight_name=lora.file.name,
                adapter_name=lora.name,
                local_files_only=True,
            )
        if before == _with_lora(pipe, lora.name):
            raise SearchError(_for_nothing(pipe, lora))
    pipe.set_adapters([each.name for each in loras], [each.scale for each in loras])
    for _, part in _models(pipe):
        part.requires_grad_(False)


def take_loras(pipeline: Pipeline, fused: Sequence[Lora], beside: Sequence[Lora] = ()) -> None:
    """Give a pipeline that was opened without weights LoRAs that are fused, and others beside the weights.

    Its parts are loaded, and of the denoiser the tensors that differ from those on disk. What it is
    stays: its fingerprint is that of the weights on disk.

    Raises:
        SearchError: see `fuse`.
    """
    whole = open_pipeline(pipeline.path)
    fuse(whole.pipe, fused)
    attach(whole.pipe, beside)
    parts = {n: p for n, p in whole.pipe.components.items() if isinstance(p, nn.Module)}
    networks = {name: parts.pop(name) for name in pipeline.networks}
    pipeline.pipe.register_modules(**parts)
    for network, module in networks.items():
        _replace_changed(pipeline.weights_of(network), module)
        if beside:
            pipeline.pipe.register_modules(**{network: without_values(module)})


def _replace_changed(on_disk: DenoiserWeights, network: nn.Module) -> None:
    """Let the tensors of a network that differ from those on disk take their place."""
    for name, tensor in network.state_dict().items():
        own = on_disk_name(name)
        if own not in on_disk or not torch.equal(tensor, on_disk.tensor(own).to(tensor.dtype)):
            on_disk.replace(own, tensor)


def without_values(denoiser: nn.Module) -> nn.Module:
    """The denoiser with its parameters on the meta device."""
    for module in denoiser.modules():
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(parameter.to("meta"), requires_grad=False))
    return denoiser


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
    with _fitting(pipe, lora):
        pipe.load_lora_weights(
            str(lora.file.parent), weight_name=lora.file.name, local_files_only=True
        )
        changed = [name for name, part in _models(pipe) if live_loras([part])]
        if changed:
            pipe.fuse_lora(components=changed, lora_scale=lora.scale, safe_fusing=True)
        pipe.unload_lora_weights()
    if not changed:
        raise SearchError(_for_nothing(pipe, lora))
    unlike = shapes.items() ^ dict(_shapes(pipe)).items()
    if unlike:
        msg = (
            f"the LoRA {str(lora.file)!r} changes the shape of {min(unlike)[0]!r}, which makes "
            "another pipeline; fuse it with diffusers, save that pipeline, and search on it"
        )
        raise SearchError(msg)


@contextmanager
def _fitting(pipe: Any, lora: Lora) -> Iterator[None]:
    """Turn what the libraries raise for a LoRA that does not fit into one sentence."""
    try:
        yield
    except Exception as error:  # they have no common class for it
        msg = (
            f"the LoRA {str(lora.file)!r} does not fit this {type(pipe).__name__}: "
            f"{' '.join(str(error).split())[:300]}; give one that was trained for this pipeline"
        )
        raise SearchError(msg) from error


def _for_nothing(pipe: Any, lora: Lora) -> str:
    return (
        f"the LoRA {str(lora.file)!r} matches no layer of this {type(pipe).__name__}; give one "
        "that was trained for this pipeline"
    )


def _with_lora(pipe: Any, name: str) -> list[str]:
    """The parts beside whose weights the LoRA of that name stands."""
    return [part for part, model in _models(pipe) if name in live_loras([model])]


def _models(pipe: Any) -> Iterator[tuple[str, nn.Module]]:
    for name, part in pipe.components.items():
        if isinstance(part, nn.Module):
            yield name, part


def _shapes(pipe: Any) -> Iterator[tuple[str, tuple[int, ...]]]:
    for part, model in _models(pipe):
        for name, tensor in model.state_dict().items():
            yield f"{part}.{name}", tuple(tensor.shape)
