"""An IP-Adapter beside a pipeline's weights, by diffusers' own loader, and the encoder of its pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from diffusers.loaders import IPAdapterMixin
from diffusers.models.embeddings import (
    IPAdapterFaceIDImageProjection,
    IPAdapterFaceIDPlusImageProjection,
)
from safetensors import SafetensorError, safe_open
from transformers import CLIPVisionModelWithProjection

from search.core.errors import SearchError
from search.model.lora import without_values
from search.model.parts import load_part, load_unused
from search.model.pipeline_files import read_index
from search.model.shapes import uninitialised
from search.model.weights import on_disk_name

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from search.core.lora import IPAdapter
    from search.model.pipeline import Pipeline

ENCODER, EXTRACTOR = "image_encoder", "feature_extractor"
"""Names of the parts that encode pictures."""
_OF_FACES = (IPAdapterFaceIDImageProjection, IPAdapterFaceIDPlusImageProjection)


def attach_ip_adapter(pipe: Any, path: Path, adapter: IPAdapter | None) -> None:
    """Let `adapter` stand beside the weights of diffusers' pipeline; None changes nothing.

    Args:
        pipe: of diffusers.
        path: its directory. Its image encoder is taken, or else the one beside the adapter's file.
        adapter: with the scale that it keeps.

    Raises:
        SearchError: a file is missing or has changed, or does not fit the pipeline.
    """
    if adapter is None:
        return
    _require_support(pipe, adapter)
    adapter.require()
    _require_no_lora(adapter)
    index = read_index(path)
    encoder = load_unused(path, index, ENCODER) or _encoder_beside(pipe, adapter)
    pipe.register_modules(
        **{ENCODER: encoder, EXTRACTOR: load_unused(path, index, EXTRACTOR)},
    )
    try:
        pipe.load_ip_adapter(
            str(adapter.file.parent),
            subfolder="",
            weight_name=adapter.file.name,
            image_encoder_folder=None,
            local_files_only=True,
        )
    except Exception as error:  # diffusers raises whatever its code runs into
        msg = (
            f"the IP-Adapter {str(adapter.file)!r} does not fit this {type(pipe).__name__}: "
            f"{' '.join(str(error).split())[:300]}; give one that was trained for this pipeline"
        )
        raise SearchError(msg) from error
    pipe.set_ip_adapter_scale(adapter.scale)
    if isinstance(pipe.unet.encoder_hid_proj.image_projection_layers[0], _OF_FACES):
        raise SearchError(_of_faces(adapter))
    for part in (encoder, pipe.unet):
        part.requires_grad_(False)


def take_ip_adapter(pipeline: Pipeline, adapter: IPAdapter) -> None:
    """Give a pipeline that was opened without weights an IP-Adapter; see `attach_ip_adapter`.

    Its tensors are added to those on disk. What the pipeline is stays: its fingerprint is that of these.
    """
    pipe, weights = pipeline.pipe, pipeline.weights
    own = pipeline.denoiser
    # diffusers puts what it loads where the denoiser is, so that has to be in memory, if without values.
    room = uninitialised(own)
    pipe.register_modules(**{pipeline.family.component: room})
    attach_ip_adapter(pipe, pipeline.path, adapter)
    tensors = room.state_dict()
    lost = sorted(own.state_dict().keys() - tensors.keys())
    if lost:
        msg = (
            f"the IP-Adapter {str(adapter.file)!r} takes the place of {lost[0]!r} of this "
            f"{type(pipe).__name__}; such pipelines are not supported"
        )
        raise SearchError(msg)
    for name, tensor in tensors.items():
        if on_disk_name(name) not in weights:
            weights.replace(on_disk_name(name), tensor)
    without_values(room)


def _require_support(pipe: Any, adapter: IPAdapter) -> None:
    """Refuse a pipeline whose IP-Adapters are of another kind, or that takes none."""
    if not isinstance(pipe, IPAdapterMixin) or not hasattr(pipe, "unet"):
        msg = (
            f"{str(adapter.file)!r} cannot be loaded into a {type(pipe).__name__}: only IP-Adapters of "
            "pipelines with a U-Net and a CLIP image encoder, such as Stable Diffusion, are supported"
        )
        raise SearchError(msg)


def _require_no_lora(adapter: IPAdapter) -> None:
    """Refuse a file that changes the denoiser's own weights, or is damaged."""
    try:
        with safe_open(adapter.file, framework="pt") as file:
            names = list(file.keys())
    except SafetensorError as error:
        msg = f"cannot read the IP-Adapter {str(adapter.file)!r}: {error}; download the file again"
        raise SearchError(msg) from error
    if any("_lora." in name for name in names):
        raise SearchError(_of_faces(adapter))


def _of_faces(adapter: IPAdapter) -> str:
    return (
        f"the IP-Adapter {str(adapter.file)!r} reads what a face recogniser makes of a picture (FaceID), "
        "and a bundle has none; give one that reads pictures"
    )


def _encoder_beside(pipe: Any, adapter: IPAdapter) -> nn.Module:
    """The image encoder in the folder of an adapter's file."""
    folder = adapter.file.parent / ENCODER
    if not folder.is_dir():
        msg = (
            f"the {type(pipe).__name__} has no {ENCODER}, and there is no {str(folder)!r}; put the image "
            "encoder that the IP-Adapter was trained with there"
        )
        raise SearchError(msg)
    made: nn.Module = load_part(CLIPVisionModelWithProjection, ENCODER, folder, weights=True)
    return made
