"""A SubNet carved at one shape: everything except the weights."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from exporter.carve import carve
from exporter.encoding_check import require_own_encoding
from exporter.part_precision import rounded_weights
from exporter.prologue import Prologue, make_prologue
from exporter.quantise import quantise
from exporter.shape import Shape
from exporter.traced import require_conditions, trace_denoiser, trace_ends
from search.core.names import GUIDANCE
from search.core.program import Program, plan_program

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import onnx_ir as ir

    from search.core.prompt import PromptInput
    from search.core.quantisation import Quantisation
    from search.core.sampler import SamplerTable
    from search.core.subnet import SubNet
    from search.model.family import Conditioner
    from search.model.pipeline import Pipeline


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
    parts: Mapping[str, str] = MappingProxyType({}),
) -> Variant:
    """Trace and carve `subnet`, at the size that it is bound to.

    Args:
        pipeline: that `subnet` is bound to.
        subnet: what to carve.
        images: per prompt.
        dtype: of the denoiser's weights and activations.
        plan: which layers to quantise, and how; None: none.
        report: called with a short progress message.
        parts: the precision of parts around the denoiser, as `lower_parts` made them.

    Raises:
        SearchError: the pipeline's scheduler is no table.
        ExportError: something cannot be exported.
    """
    shape = Shape.of(pipeline.size(subnet.binding.noise_shape), images)
    table = pipeline.sampler_of(subnet)
    program = plan_program(subnet, images)
    if plan is not None:
        program = program.split(plan.span_of)
    report(f"{shape}: trace text encoders and decoder")
    ends = trace_ends(pipeline, subnet, images, dtype, rounded_weights(pipeline, parts))
    report(f"{shape}: trace denoiser")
    master = trace_denoiser(pipeline, subnet, program.bases, images, dtype)
    require_conditions(ends.condition, master)
    require_own_encoding(pipeline.pipe, ends.unlike, master.reads)
    quantised = None if plan is None else quantise(master, plan)
    report(f"{shape}: carve {len(program.signatures)} step graphs")
    steps = tuple(
        carve(master, signature, f"step_{number:03d}")
        for number, signature in enumerate(program.signatures)
    )
    if plan is not None and quantised is not None:
        spans = {call.signature: plan.span_of(call.step) for call in program.calls}
        for number, span in spans.items():
            quantised.set_span(steps[number].graph, span)
    reads = {value.name or "" for step in steps for value in step.graph.inputs}
    return Variant(
        shape=shape,
        subnet=subnet,
        program=program,
        sampler=program.reduce(table),
        prompts=ends.prompts,
        condition=ends.condition.model,
        prologue=make_prologue(master, reads, program.timesteps),
        steps=steps,
        decode=ends.decode.model,
        layout=master.layout,
        encode=None if ends.encode is None else ends.encode.model,
        encoder_inputs=ends.encoder_inputs,
    )
