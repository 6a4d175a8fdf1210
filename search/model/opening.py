"""The ways to open a pipeline: as it is, as a user asks for it, and as a SubNet is bound to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from search.core.errors import SearchError
from search.core.precision import precision_named
from search.model.checkpoint_files import WeightFiles
from search.model.computing import compute_in
from search.model.family import family_of
from search.model.parts import load_parts, require_plain
from search.model.pipeline import Pipeline
from search.model.pipeline_files import assembled, denoiser_of, read_index, with_weights
from search.model.weights import DenoiserWeights

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from search.core.subnet import SubNet


def open_pipeline(
    path: Path,
    *,
    weights: bool = True,
    device: str = "cpu",
    files: bool = True,
    dtype: str = "float32",
) -> Pipeline:
    """Open a directory written by `save_pretrained`.

    Args:
        path: the directory.
        weights: load them; without, models have their architecture only, and `Pipeline.load_around`
            loads all but the denoiser's.
        device: where to put the pipeline.
        files: without `weights`, require weight files that fit; else the configuration alone is read,
            and whatever needs a weight fails.
        dtype: of the denoiser's weights and activations, one of `denoiser_precisions`; what is around
            it is float32. Without `weights` it makes no difference.

    Raises:
        SearchError: it is no pipeline, of an unknown kind, or damaged.
    """
    import torch
    from diffusers.utils import logging

    index = read_index(path)
    family = family_of(index["_class_name"], index)
    require_device(device)
    require_plain(path / family.component)
    none = None if weights or files else WeightFiles((), None)
    found = DenoiserWeights(path / family.component, none)
    logging.disable_progress_bar()
    # First the denoiser: what it lacks is known before anything large is loaded.
    denoiser = denoiser_of(path, family, index)
    if none is None:
        found.require_fit(denoiser)
    if weights:
        denoiser = with_weights(denoiser, found, getattr(torch, precision_named(dtype).torch))
    parts = load_parts(path, index, but=family.component, weights=weights, files=files)
    pipe = assembled(path, index, {family.component: denoiser, **parts})
    pipe.set_progress_bar_config(disable=True)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            # Gradients go through the parts, hardly ever to their weights: who wants that says so.
            part.requires_grad_(False)
    opened = Pipeline(path, pipe.to(device) if weights else pipe, family, found, index)
    if weights and dtype != "float32":
        for network in opened.networks.values():
            if network is not denoiser:
                compute_in(network, denoiser.dtype)
    return opened


def require_device(device: str) -> None:
    """Refuse a torch device that is not there."""
    import torch

    kind = device.split(":")[0]
    if kind == "cuda" and not torch.cuda.is_available():
        msg = f"device {device!r} was requested, but PyTorch finds no CUDA device; use --device cpu"
        raise SearchError(msg)
    if kind not in ("cpu", "cuda"):
        msg = f"unknown device {device!r}; use cpu or cuda"
        raise SearchError(msg)


def open_asked(
    path: Path,
    *,
    scheduler: str | None,
    scheduler_options: Iterable[tuple[str, Any]] = (),
    call: Iterable[tuple[str, Any]] = (),
    split_streams: bool = False,
    weights: bool = True,
    device: str = "cpu",
    dtype: str = "float32",
) -> Pipeline:
    """Open a pipeline with the sampler and the arguments that a user asks for; see `open_pipeline`.

    Args:
        path: the directory.
        scheduler: a class of diffusers or a short name; None is the pipeline's own.
        scheduler_options: settings of it to change.
        call: further arguments of the pipeline's call.
        split_streams: make the call for both halves of guidance as two.
        weights: load them.
        device: where to put the pipeline.
        dtype: of the denoiser's weights and activations.
    """
    opened = open_pipeline(path, weights=weights, device=device, dtype=dtype)
    settings = dict(scheduler_options)
    if scheduler is not None or settings:
        opened.use_scheduler(scheduler, settings)
    opened.use_call(dict(call))
    if split_streams:
        opened.split_streams()
    return opened


def open_for(
    subnet: SubNet, path: Path, *, weights: bool, device: str = "cpu", dtype: str = "float32"
) -> Pipeline:
    """Open the pipeline that `subnet` is for, with the sampler it is bound to.

    Raises:
        SearchError: the pipeline is not the one the SubNet was made for.
    """
    binding = subnet.binding
    pipeline = open_pipeline(path, weights=weights, device=device, dtype=dtype)
    pipeline.use_scheduler(binding.scheduler, binding.scheduler_options)
    pipeline.use_call(binding.call)
    if binding.split_streams:
        pipeline.split_streams()
    if binding.picture:
        pipeline._sizes[binding.noise_shape] = binding.picture
    here = pipeline.binding(
        grid=binding.grid,
        guided=binding.guided,
        latent_shape=binding.latent_shape,
        noise_shape=binding.noise_shape,
    )
    binding.require(here)
    return pipeline
