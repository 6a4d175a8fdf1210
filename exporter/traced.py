"""What is traced of a pipeline, before anything of it is carved."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch

from exporter.components import Component, conditioner_graph, decoder_graph, encoder_graph
from exporter.encoding_check import unlike_encodings
from exporter.errors import ExportError
from exporter.trace import Master, trace_master
from search.core.names import GUIDANCE, SAMPLE, TIMESTEP
from search.core.precision import precision_named
from search.model.encoder import image_to_image_of
from search.model.family import Request
from search.model.trace import trace

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from exporter.components import RoundedWeights
    from search.core.prompt import PromptInput
    from search.core.subnet import SubNet
    from search.model.family import Conditioner
    from search.model.pipeline import Pipeline

LOOP_INPUTS = frozenset({SAMPLE, TIMESTEP, GUIDANCE})


@dataclass(frozen=True)
class Ends:
    """What leads to the loop and away from it.

    Attributes:
        prompts: the conditioner, for its inputs and tokenizers.
        unlike: what it makes otherwise than the pipeline, see `unlike_encodings`.
        condition: its graph.
        decode: the graph of the decoder.
        encode: the graph from a picture to the latents that the loop begins from, or None.
        encoder_inputs: what it takes.
    """

    prompts: Conditioner
    unlike: dict[str, str]
    condition: Component
    decode: Component
    encode: Component | None
    encoder_inputs: tuple[PromptInput, ...]


def trace_ends(
    pipeline: Pipeline,
    subnet: SubNet,
    images: int,
    dtype: str,
    rounded: RoundedWeights = MappingProxyType({}),
) -> Ends:
    """Trace what is around the denoiser, and compare how texts are encoded.

    Args:
        pipeline: that `subnet` is bound to.
        subnet: whose guidance and shape to trace at.
        images: per prompt.
        dtype: of the conditions.
        rounded: the scheme of each weight that is stored rounded, by the parameter's identity.

    Raises:
        ExportError: something cannot be exported.
    """
    binding = subnet.binding
    size = pipeline.size(binding.noise_shape)
    request = conditioning(pipeline, subnet, images)
    prompts = pipeline.family.conditioner(pipeline, request)
    unlike = unlike_encodings(pipeline, prompts, request)
    encode, encoder_inputs = _encoder(pipeline, subnet, size, images, rounded)
    return Ends(
        prompts=prompts,
        unlike=unlike,
        condition=conditioner_graph(prompts, dtype, rounded),
        decode=decoder_graph(pipeline, (images, *binding.latent_shape), size, rounded),
        encode=encode,
        encoder_inputs=encoder_inputs,
    )


def _encoder(
    pipeline: Pipeline, subnet: SubNet, size: tuple[int, ...], images: int, rounded: RoundedWeights
) -> tuple[Component | None, tuple[PromptInput, ...]]:
    """The graph from a picture to clean latents and what it takes; None where none can be made."""
    cls = type(pipeline.pipe).__name__
    if not subnet.binding.grid.adds_noise or image_to_image_of(cls) is None:
        return None, ()
    return encoder_graph(pipeline, size, images, rounded)


def conditioning(pipeline: Pipeline, subnet: SubNet, batch: int) -> Request:
    """What the conditioner is made for: `batch` images of one prompt."""
    binding = subnet.binding
    return Request(
        prompts=(pipeline.default_prompt,),
        steps=binding.inference_steps,
        guidance=subnet.guidance,
        latents=torch.zeros(batch, *binding.latent_shape),
        images=batch,
    ).sized(pipeline.size(binding.noise_shape))


def trace_denoiser(
    pipeline: Pipeline,
    subnet: SubNet,
    bases: AbstractSet[int],
    batch: int,
    dtype: str = "float32",
) -> Master:
    """Trace for `batch` images and check that the blocks are those of the SubNet.

    Args:
        pipeline: that `subnet` is bound to.
        subnet: whose granularity, guidance and shape to trace at.
        bases: the ports whose bases are wanted.
        batch: images per prompt.
        dtype: of weights and activations.

    Raises:
        ExportError: the denoiser has other blocks, or makes latents of another shape.
    """
    binding = subnet.binding
    request = Request(
        prompts=(pipeline.default_prompt,) * batch,
        steps=binding.inference_steps,
        guidance=subnet.guidance,
    ).sized(pipeline.size(binding.noise_shape))
    traced = trace(
        pipeline,
        subnet.granularity,
        request,
        getattr(torch, precision_named(dtype).torch),
        groups=subnet.topology.groups,
        timesteps=subnet.timesteps,
    )
    if not subnet.topology.has_blocks_of(traced.topology):
        msg = (
            f"the denoiser traced here has other blocks than the SubNet ({len(traced.topology.blocks)} "
            f"against {len(subnet.topology.blocks)}); search again with this version of diffusers"
        )
        raise ExportError(msg)
    if traced.latent_shape != binding.latent_shape:
        msg = (
            f"the SubNet is for latents {binding.latent_shape}, but the pipeline makes "
            f"{traced.latent_shape}; search again with this pipeline's size"
        )
        raise ExportError(msg)
    return trace_master(pipeline, traced, bases)


def require_conditions(condition: Component, master: Master) -> None:
    """Refuse a denoiser that takes what no prompt gives."""
    missing = sorted(
        set(master.inputs) - set(master.invariants) - set(condition.outputs) - LOOP_INPUTS
    )
    if missing:
        msg = (
            f"the denoiser takes {missing}, which no prompt gives; "
            "the pipeline's family must make them in its conditioner"
        )
        raise ExportError(msg)
