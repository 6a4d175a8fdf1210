"""One torch.export trace of a loop's body without weights, and the topology read off it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import torch
from accelerate import init_empty_weights
from torch import nn
from torch.export.graph_signature import TensorArgument

from search.core.errors import SearchError
from search.core.names import GUIDANCE, SAMPLE, TIMESTEP
from search.core.streams import block_name, stream_names
from search.core.subnet import Granularity
from search.model.body import Body
from search.model.complex_numbers import without_complex
from search.model.hollow import hollow
from search.model.live_lora import live_loras, scale_input
from search.model.removed import (
    build_denoiser,
)
from search.model.traced_graph import TracedGraph, emitted_by, read_topology
from search.model.traced_step import Output, TracedStep

LONGER = "a longer text, to see whether its length counts"
"""What is added to a prompt."""

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch.export import ExportedProgram

    from search.core.topology import (
        Topology,
    )
    from search.model.family import Family, Request
    from search.model.pipeline import Pipeline


@dataclass(frozen=True)
class Trace:
    """The body of a pipeline's loop, traced.

    Attributes:
        program: its inputs are `sample` `[B, ...]`, `timestep` `[]`, the conditions and
            `guidance_scale` `[]`. Its first output is the prediction `[B, ...]`; blocks' tensors and
            their bases follow.
        inputs: names of the program's inputs, in order.
        topology: what the program says about the blocks.
        port_outputs: per port of the topology, which output of the program it is.
        base_outputs: likewise, per port that has a base other than zeros.
        body: that was traced.
    """

    program: ExportedProgram
    inputs: tuple[str, ...]
    topology: Topology
    port_outputs: tuple[int, ...]
    base_outputs: dict[int, int]
    body: Body

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Of one image, as the loop has it; `[C, H, W]`, or as the pipeline packs it."""
        return self.body.latent_shape

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Of the noise drawn for one image, `[C, H, W]`."""
        return self.body.drawn[1:]


def trace(
    pipeline: Pipeline,
    granularity: Granularity,
    request: Request,
    dtype: torch.dtype = torch.float32,
) -> Trace:
    """Trace the body of the loop of diffusers' pipeline for `request`.

    The weights are never touched: a copy of the denoiser is built from its configuration. Sample,
    prediction, timestep and guidance are float32 whatever the `dtype` of weights, conditions and blocks.
    """
    body = Body(pipeline, request)
    _require_one_way(pipeline, request, body)
    family = pipeline.family
    denoiser = hollow(_built(pipeline), dtype)
    names = _block_names(family, denoiser, granularity, pipeline.removed)
    outputs: dict[Output, int] = {}
    parts = {name: hollow(part, dtype) for name, part in body.parts_around.items()}
    step = TracedStep(body, denoiser, parts, names, outputs, dtype)
    inputs = {
        SAMPLE: torch.zeros(body.pictures, *body.latent_shape),
        TIMESTEP: torch.ones(()),
        **{
            name: torch.zeros(t.shape, dtype=dtype if t.is_floating_point() else t.dtype)
            for name, t in body.conditions.items()
        },
        **{scale_input(name): torch.ones(1, dtype=dtype) for name in live_loras([denoiser])},
        GUIDANCE: torch.ones(()),
    }
    with torch.no_grad():
        program = without_aliases(torch.export.export(step, (), inputs, strict=False))
    program = without_complex(program, inputs)
    modules = {name for each in Granularity for name in family.blocks(denoiser, each)}
    branches = {name for name in modules if family.is_branch(denoiser.get_submodule(name))}
    graph = TracedGraph(program, tuple(inputs))
    emitted = emitted_by(graph, outputs, _in_streams(body, branches))
    units = _in_streams(body, modules)
    topology = read_topology(program, graph, emitted, units, body)
    return Trace(
        program=program,
        inputs=tuple(inputs),
        topology=topology,
        port_outputs=tuple(emitted.ports.values()),
        base_outputs=emitted.outputs,
        body=body,
    )


def _require_one_way(pipeline: Pipeline, request: Request, body: Body) -> None:
    """Refuse a step that depends on the length of its text, which a trace would freeze."""
    if not body.numbers or pipeline.family.labels(pipeline.pipe, request) is not None:
        return
    longer = replace(request, prompts=tuple(f"{p} {LONGER}" for p in request.prompts))
    if Body(pipeline, longer).numbers != body.numbers:
        msg = (
            f"the {type(pipeline.denoiser).__name__} of a {pipeline.family.pipeline} computes otherwise "
            "for texts of another length; a graph is of one length, so such pipelines are not supported"
        )
        raise SearchError(msg)


def without_aliases(program: ExportedProgram) -> ExportedProgram:
    """The program with what its outputs are aliases of in their place."""
    output = program.graph.output_node()
    specs = program.graph_signature.output_specs
    results = list(output.args[0])
    for place, node in enumerate(results):
        if node.target is torch.ops.aten.alias.default:
            results[place] = node.args[0]
            specs[place].arg = TensorArgument(name=node.args[0].name)
    output.args = (tuple(results),)
    program.graph.eliminate_dead_code()
    program.graph_module.recompile()
    return program


def _built(pipeline: Pipeline) -> nn.Module:
    """The denoiser of a pipeline without any weights."""
    if any(p.is_meta for p in pipeline.denoiser.parameters()):
        return cast("nn.Module", pipeline.denoiser)
    cls, config = type(pipeline.denoiser), pipeline.denoiser.config
    with init_empty_weights(include_buffers=False):
        return build_denoiser(cls, config, pipeline.family)


def _block_names(
    family: Family, denoiser: nn.Module, granularity: Granularity, removed: Iterable[str]
) -> list[str]:
    """The modules that are blocks."""
    return list(dict.fromkeys([*family.blocks(denoiser, granularity), *removed]))


def _in_streams(body: Body, modules: Iterable[str]) -> set[str]:
    """These modules as blocks, in every stream."""
    streams = stream_names(len(body.uses))
    return {block_name(stream, module) for stream in streams for module in modules}
