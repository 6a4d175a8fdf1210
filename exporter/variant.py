"""A SubNet carved at one shape: everything except the weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from exporter.bundle import Shape
from exporter.carve import carve
from exporter.components import Component, conditioner_graph, decoder_graph, encoder_graph
from exporter.errors import ExportError
from exporter.prologue import Prologue, make_prologue
from exporter.quantise import quantise
from exporter.trace import Master, trace_master
from search.core.names import GUIDANCE, SAMPLE, TIMESTEP
from search.core.precision import precision_named
from search.core.program import Program, plan_program
from search.model.encoder import image_to_image_of
from search.model.family import Request
from search.model.trace import trace

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Set as AbstractSet

    import onnx_ir as ir

    from search.core.prompt import PromptInput
    from search.core.quantisation import Quantisation
    from search.core.sampler import SamplerTable
    from search.core.subnet import SubNet
    from search.model.family import Conditioner
    from search.model.pipeline import Pipeline

LOOP_INPUTS = frozenset({SAMPLE, TIMESTEP, GUIDANCE})


@dataclass(frozen=True)
class Variant:
    """What is exported for one shape.

    Attributes:
        shape: of the pictures.
        subnet: bound to that size.
        program: the SubNet unrolled.
        sampler: one row per call.
        prompts: the conditioner, for its inputs and tokenizers.
        condition: its graph.
        prologue: computes the loop invariants, or None.
        steps: per signature of the program, its graph.
        decode: the graph of the decoder.
        layout: per element of the latents, which element of the drawn noise it is; None: its own.
        encode: the graph from a picture to the latents that the loop begins from, or None.
        encoder_inputs: what it takes.
    """

    shape: Shape
    subnet: SubNet
    program: Program
    sampler: SamplerTable
    prompts: Conditioner
    condition: ir.Model
    prologue: Prologue | None
    steps: tuple[ir.Model, ...]
    decode: ir.Model
    layout: tuple[int, ...] | None
    encode: ir.Model | None
    encoder_inputs: tuple[PromptInput, ...]

    @property
    def models(self) -> tuple[ir.Model, ...]:
        """All graphs."""
        prologue = () if self.prologue is None else (self.prologue.model,)
        encode = () if self.encode is None else (self.encode,)
        return (self.condition, *prologue, *self.steps, self.decode, *encode)

    @property
    def reads(self) -> set[str]:
        """What the step graphs and the prologue take."""
        prologue = () if self.prologue is None else (self.prologue.model,)
        return {v.name or "" for model in (*prologue, *self.steps) for v in model.graph.inputs}

    @property
    def takes_scale(self) -> bool:
        """Whether some graph takes the guidance scale."""
        inputs = (value.name for model in self.models for value in model.graph.inputs)
        return GUIDANCE in inputs

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values, but for the files."""
        images, binding = self.shape.images, self.subnet.binding
        return {
            **self.shape.to_json(),
            "latent_shape": [images, *binding.latent_shape],
            "noise_shape": [images, *binding.noise_shape],
            "rows": [] if self.prologue is None else list(self.prologue.rows),
            **self.program.to_json(self.subnet.topology.name),
            "sampler": self.sampler.to_json(),
        }


def carve_variant(
    pipeline: Pipeline,
    subnet: SubNet,
    images: int,
    dtype: str,
    plan: Quantisation | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> Variant:
    """Trace and carve `subnet`, at the size that it is bound to.

    Args:
        pipeline: that `subnet` is bound to.
        subnet: what to carve.
        images: per prompt.
        dtype: of the denoiser's weights and activations.
        plan: which layers to quantise, and how; None: none.
        report: called with a short progress message.

    Raises:
        SearchError: the pipeline's scheduler is no table.
        ExportError: something cannot be exported.
    """
    binding = subnet.binding
    size = pipeline.size(binding.noise_shape)
    shape = Shape.of(size, images)
    table = pipeline.sampler_of(subnet)
    program = plan_program(subnet, images)
    report(f"{shape}: trace denoiser")
    master = trace_denoiser(pipeline, subnet, program.bases, images, dtype)
    if plan is not None:
        quantise(master, plan)
    report(f"{shape}: trace text encoders and decoder")
    prompts = pipeline.family.conditioner(pipeline, conditioning(pipeline, subnet, images))
    condition = conditioner_graph(prompts, dtype)
    decoder = decoder_graph(pipeline, (images, *binding.latent_shape), size)
    encoder, encoder_inputs = _encoder(pipeline, subnet, size, images)
    _check_conditions(condition, master)
    report(f"{shape}: carve {len(program.signatures)} step graphs")
    steps = tuple(
        carve(master, signature, f"step_{number:03d}")
        for number, signature in enumerate(program.signatures)
    )
    reads = {value.name or "" for step in steps for value in step.graph.inputs}
    return Variant(
        shape=shape,
        subnet=subnet,
        program=program,
        sampler=program.reduce(table),
        prompts=prompts,
        condition=condition.model,
        prologue=make_prologue(master, reads, program.timesteps),
        steps=steps,
        decode=decoder.model,
        layout=master.layout,
        encode=encoder,
        encoder_inputs=encoder_inputs,
    )


def _encoder(
    pipeline: Pipeline, subnet: SubNet, size: tuple[int, ...], images: int
) -> tuple[ir.Model | None, tuple[PromptInput, ...]]:
    """The graph from a picture to clean latents and what it takes; None where none can be made."""
    cls = type(pipeline.pipe).__name__
    if not subnet.binding.grid.adds_noise or image_to_image_of(cls) is None:
        return None, ()
    made, inputs = encoder_graph(pipeline, size, images)
    return made.model, inputs


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


def _check_conditions(condition: Component, master: Master) -> None:
    missing = sorted(
        set(master.inputs) - set(master.invariants) - set(condition.outputs) - LOOP_INPUTS
    )
    if missing:
        msg = (
            f"the denoiser takes {missing}, which no prompt gives; "
            "the pipeline's family must make them in its conditioner"
        )
        raise ExportError(msg)
