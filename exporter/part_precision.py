"""Text encoders and autoencoders in a lower precision, where the results stay close to float32."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from exporter.errors import ExportError
from search.core.precision import precision_named
from search.core.quantisation import weight_scheme
from search.model.computing import compute_in
from search.model.decoder import Decoder
from search.model.encoder import Encoder, image_to_image_of
from search.model.family import Request
from search.model.parts_in_place import decoders_of
from search.model.pictures import sources_of
from search.model.recording import record_conditions
from search.quantise.rounded import part_weights, round_part

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from search.core.quantisation import Scheme
    from search.core.subnet import SubNet
    from search.model.pipeline import Pipeline

PROMPT = "a photo of a red bicycle in front of an old wall"
WHOLE = "float32"
ROUNDED = precision_named("float16").floor
"""The largest relative error of a part whose weights are rounded, as in half precision."""


def lower_parts(
    pipeline: Pipeline,
    subnet: SubNet,
    *,
    text: str = WHOLE,
    vae: str = WHOLE,
    note: Callable[[str], None] = lambda _: None,
) -> dict[str, str]:
    """Let the text encoders compute in `text` and the autoencoder in `vae`, where that stays close.

    A part stays float32 if its results would not be finite, or would be further from those in float32
    than a denoiser's may be. They are measured on a prompt, and on latents of unit variance.

    Args:
        pipeline: with the weights of these parts loaded.
        subnet: says guidance and size.
        text: of the text encoders, one of `denoiser_precisions`, or of `weight_schemes`: these round the
            weights, and compute in float32.
        vae: of the autoencoder.
        note: called with a sentence for each part that stays float32, and each whose weights are rounded.

    Returns:
        The precision of each part.

    Raises:
        ExportError: there is nothing to lower.
    """
    made: dict[str, str] = {}
    for option, dtype, parts_of, measured in (
        ("--text-dtype", text, _texts, _conditions),
        ("--vae-dtype", vae, _autoencoders, _pictures),
    ):
        if dtype == WHOLE:
            continue
        parts = parts_of(pipeline)
        if not parts:
            msg = f"{type(pipeline.pipe).__name__} has no part that {option} is for; leave it out"
            raise ExportError(msg)
        made |= _lowered(parts, dtype, partial(measured, pipeline, subnet), note)
    return made


def _lowered(
    parts: Mapping[str, nn.Module],
    dtype: str,
    measured: Callable[[], Iterable[Tensor]],
    note: Callable[[str], None],
) -> dict[str, str]:
    """Let each part compute in `dtype` if its results, `measured`, then stay close; the precision of each."""
    made, whole = {}, list(measured())
    for name, part in parts.items():
        undo = _lower(part, dtype)
        off = _off(whole, list(measured()))
        why = _why_not(dtype, off)
        made[name] = WHOLE if why else dtype
        if why:
            undo()
            note(f"the {name} stays float32: {why}")
        elif weight_scheme(dtype) is not None:
            note(f"the {name} in {dtype}: its results are {off:.2%} off")
    return made


def rounded_weights(pipeline: Pipeline, parts: Mapping[str, str]) -> dict[int, Scheme]:
    """The weights that `lower_parts` rounded: the `id` of the parameter -> how it is stored."""
    return {
        id(weight): scheme
        for name, precision in parts.items()
        if (scheme := weight_scheme(precision)) is not None
        for weight in part_weights(getattr(pipeline.pipe, name))
    }


def _lower(part: nn.Module, precision: str) -> Callable[[], None]:
    """Let a part compute in a precision, or with its weights rounded; returns what undoes it."""
    scheme = weight_scheme(precision)
    if scheme is not None:
        return round_part(part, scheme)
    return compute_in(part, getattr(torch, precision_named(precision).torch))


def _autoencoders(pipeline: Pipeline) -> dict[str, nn.Module]:
    return decoders_of(pipeline.pipe)


def _texts(pipeline: Pipeline) -> dict[str, nn.Module]:
    """The models that make conditions of a prompt: no networks, autoencoders or parts of a step."""
    others = {*pipeline.networks, *decoders_of(pipeline.pipe), *pipeline.body().parts_around}
    return {
        name: part
        for name, part in pipeline.pipe.components.items()
        if isinstance(part, nn.Module) and name not in others
    }


def _off(whole: list[Tensor], lowered: list[Tensor]) -> float:
    """The largest relative L2 of the results; NaN where they are not finite."""
    if not all(tensor.isfinite().all() for tensor in lowered):
        return math.nan
    pairs = zip(whole, lowered, strict=True)
    return max(float((b - a).norm() / a.norm().clamp(min=1e-12)) for a, b in pairs)


def _why_not(precision: str, off: float) -> str:
    """Why a part will not do in a precision; empty if it does."""
    if math.isnan(off):
        return f"its values in {precision} are not finite"
    most = ROUNDED if weight_scheme(precision) else precision_named(precision).floor
    return f"in {precision} its results are {off:.1%} off" if off > most else ""


def _request(pipeline: Pipeline, subnet: SubNet) -> Request:
    size = pipeline.size(subnet.binding.noise_shape)
    prompt = pipeline.default_prompt or PROMPT
    return Request((prompt,), 2, subnet.guidance, negative="", seed=0).sized(size)


def _conditions(pipeline: Pipeline, subnet: SubNet) -> Iterator[Tensor]:
    """What the pipeline's encoders make of a prompt."""
    request = _request(pipeline, subnet)
    with torch.no_grad():
        made = record_conditions(pipeline, request, torch.Generator().manual_seed(0))
    yield from (tensor.float() for tensor in made.values() if tensor.is_floating_point())


def _pictures(pipeline: Pipeline, subnet: SubNet) -> Iterator[Tensor]:
    """What the autoencoder makes of latents, and of a picture where the bundle takes one."""
    size = pipeline.size(subnet.binding.noise_shape)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, *subnet.binding.latent_shape, generator=generator)
    with torch.no_grad():
        yield Decoder(pipeline, size)(latents).float()
        if subnet.binding.grid.adds_noise and image_to_image_of(type(pipeline.pipe).__name__):
            encoder = Encoder(pipeline, size, 1)
            given = (torch.rand(each.shape, generator=generator) for each in encoder.inputs)
            yield encoder(*given).float()
    if sources_of(pipeline.pipe):
        yield from _conditions(pipeline, subnet)
