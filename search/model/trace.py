"""One torch.export trace of a loop's body without weights, and the topology read off it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.export.graph_signature import TensorArgument

from search.core.errors import SearchError
from search.core.names import DENOISER, GUIDANCE, NETWORKS, SAMPLE, TIMESTEP
from search.core.streams import block_name, stream_names
from search.core.subnet import Granularity
from search.model.body import Body, Place
from search.model.complex_numbers import without_complex
from search.model.live_lora import live_loras, scale_input
from search.model.removed import without_weights
from search.model.replaced import replaced
from search.model.shapes import uninitialised
from search.model.text_lengths import fixed_texts_of, with_short_texts
from search.model.traced_graph import TracedGraph, Units, emitted_by, read_topology
from search.model.traced_step import Output, TracedCalls, TracedStep

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from torch.export import ExportedProgram

    from search.core.groups import Groups
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
            `guidance_scale` `[]`. Its first output is the prediction `[B, ...]`, or one for each group
            of steps; blocks' tensors and their bases follow.
        inputs: names of the program's inputs, in order.
        topology: what the program says about the blocks.
        port_outputs: per port of the topology, which output of the program it is.
        base_outputs: likewise, per port that has a base other than zeros.
        bodies: that were traced, one per group of steps.
    """

    program: ExportedProgram
    inputs: tuple[str, ...]
    topology: Topology
    port_outputs: tuple[int, ...]
    base_outputs: dict[int, int]
    bodies: tuple[Body, ...]

    @property
    def body(self) -> Body:
        """That of the first group."""
        return self.bodies[0]

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
    *,
    groups: Groups | None = None,
    timesteps: Sequence[float] = (),
) -> Trace:
    """Trace the body of the loop of diffusers' pipeline for `request`, or one for each of its groups.

    The weights are never touched: copies of the networks are built from their configurations. Sample,
    prediction, timestep and guidance are float32 whatever the `dtype` of weights, conditions and blocks.

    Args:
        pipeline: of diffusers.
        granularity: which submodules are blocks.
        request: what to sample.
        dtype: of weights and blocks.
        groups: of steps; None if all do the same.
        timesteps: of the steps, if there are groups.
    """
    bodies = _bodies(pipeline, request, groups, timesteps)
    body = bodies[0]
    family, calls = pipeline.family, _calls(pipeline, bodies, groups)
    used = {pipeline.family.component, *calls.networks.values()}
    networks = {
        name: uninitialised(without_weights(pipeline, name), dtype)
        for name in pipeline.networks
        if name in used
    }
    modules = {
        name: _block_names(family, network, granularity, pipeline.removed)
        for name, network in networks.items()
    }
    outputs: dict[Output, int] = {}
    order: dict[str, list[str]] = {}
    around = {name: part for each in reversed(bodies) for name, part in each.parts_around.items()}
    parts = {name: uninitialised(part, dtype) for name, part in around.items()}
    step = TracedStep(bodies, networks, parts, modules, calls, outputs, order, dtype)
    inputs = _example_inputs(body, networks, dtype)
    with torch.no_grad(), replaced(Tensor, "fill_diagonal_", _fill_diagonal):
        program = without_aliases(torch.export.export(step, (), inputs, strict=False))
    program = without_complex(program, inputs)
    units = {
        network: {name for each in Granularity for name in family.blocks(module, each)}
        for network, module in networks.items()
    }
    branches = {
        network: {name for name in names if family.is_branch(networks[network].get_submodule(name))}
        for network, names in units.items()
    }
    graph = TracedGraph(program, tuple(inputs), len(bodies))
    emitted = emitted_by(graph, outputs, _in_streams(calls, branches), calls.first)
    topology = read_topology(
        program,
        graph,
        emitted,
        Units(_in_streams(calls, units), {module_path(n, pipeline): order[n] for n in networks}),
        samples=body.rows,
        groups=groups,
    )
    return Trace(
        program=program,
        inputs=tuple(inputs),
        topology=topology,
        port_outputs=tuple(emitted.ports.values()),
        base_outputs=emitted.outputs,
        bodies=bodies,
    )


def _bodies(
    pipeline: Pipeline, request: Request, groups: Groups | None, timesteps: Sequence[float]
) -> tuple[Body, ...]:
    """One per group, at its first step."""
    texts = fixed_texts_of(pipeline, request)
    if not pipeline.family.classes(pipeline.pipe):
        request = with_short_texts(request)  # whose masks say what is padding
    if groups is None:
        return (Body(pipeline, request, texts),)
    steps = map(groups.first_step, range(len(groups.calls)))
    places = [Place(step, tuple(timesteps), request.steps) for step in steps]
    return tuple(Body(pipeline, request, texts, place) for place in places)


def _example_inputs(
    body: Body, networks: Mapping[str, torch.nn.Module], dtype: torch.dtype
) -> dict[str, Tensor]:
    """The inputs of a step by name, with the shapes and types of the trace."""
    return {
        SAMPLE: torch.zeros(body.pictures, *body.latent_shape),
        TIMESTEP: torch.ones(()),
        **{
            name: torch.zeros(t.shape, dtype=dtype if t.is_floating_point() else t.dtype)
            for name, t in body.conditions.items()
        },
        **{scale_input(name): torch.ones(1, dtype=dtype) for name in live_loras(networks.values())},
        GUIDANCE: torch.ones(()),
    }


def _calls(pipeline: Pipeline, bodies: Sequence[Body], groups: Groups | None) -> TracedCalls:
    if groups is not None:
        return TracedCalls(groups.calls, dict(groups.networks))
    streams = stream_names(len(bodies[0].uses))
    return TracedCalls((streams,), dict.fromkeys(streams, pipeline.family.component))


def module_path(network: str, pipeline: Pipeline) -> str:
    """Where a network is in the module that is traced."""
    return DENOISER if network == pipeline.family.component else f"{NETWORKS}{network}"


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


def _fill_diagonal(tensor: Tensor, value: float, wrap: bool = False) -> Tensor:
    """The same as torch's own, which writes through strides and so cannot be exported to ONNX."""
    if wrap or tensor.ndim != 2:
        msg = (
            f"a step fills the diagonal of a tensor {tuple(tensor.shape)}, which a graph can do "
            "for two dimensions without wrapping only; such pipelines are not supported"
        )
        raise SearchError(msg)
    on = torch.eye(*tensor.shape, dtype=torch.bool, device=tensor.device)
    return tensor.copy_(tensor.masked_fill(on, value))


def _block_names(
    family: Family, denoiser: nn.Module, granularity: Granularity, removed: Iterable[str]
) -> list[str]:
    """The modules that are blocks."""
    return list(dict.fromkeys([*family.blocks(denoiser, granularity), *removed]))


def _in_streams(calls: TracedCalls, modules: Mapping[str, Iterable[str]]) -> set[str]:
    """These modules of the networks as blocks, in every stream."""
    return {
        block_name(stream, module)
        for stream, network in calls.networks.items()
        for module in modules[network]
    }
