"""The denoiser as one master ONNX graph in which every block boundary is a named value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_ir as ir

from exporter.errors import ExportError
from exporter.graph import BOUNDARY, DOMAIN, convert, lazy_tensor, optimise
from exporter.hoist import hoist
from exporter.nothing import add_nothing

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Set as AbstractSet

    import torch

    from search.core.topology import Topology
    from search.model.pipeline import Pipeline
    from search.model.trace import Trace

PREDICTION = "noise_prediction"


@dataclass(frozen=True)
class Master:
    """The whole denoiser in ONNX.

    Attributes:
        model: its graph outputs the noise prediction, all tensors, all sums and their bases.
        inputs: of the graph, by name; those of the loop include the stand-ins of its invariants.
        invariants: per such stand-in, the value that it stands for.
        prediction: the noise prediction.
        tensors: per tensor of the topology, its boundary value; residuals only where asked for.
        sums: per sum of the topology whose residual is there, base plus residual.
        bases: likewise, the base alone.
        topology: of the denoiser.
        layout: per element of the latents, which element of the drawn noise it is; None: its own.
    """

    model: ir.Model
    inputs: dict[str, ir.Value]
    invariants: dict[str, ir.Value]
    prediction: ir.Value
    tensors: dict[int, ir.Value]
    sums: dict[int, ir.Value]
    bases: dict[int, ir.Value]
    topology: Topology
    layout: tuple[int, ...] | None


def trace_master(pipeline: Pipeline, trace: Trace, replaced: AbstractSet[int]) -> Master:
    """Convert `trace` to ONNX, mark the ports, attach the weights lazily and optimise.

    Args:
        pipeline: holds the weights.
        trace: of its denoiser.
        replaced: the blocks whose residuals, sums and bases are wanted.
    """
    model = convert(trace.program)
    graph = model.graph
    for value, name in zip(graph.inputs, trace.inputs, strict=True):
        value.name = name
    prediction = graph.outputs[0]
    topology = trace.topology
    produced = [graph.outputs[i] for i in trace.port_outputs]
    base_of = {
        b: graph.outputs[i] for b, i in zip(topology.deltas, trace.base_outputs, strict=True)
    }
    graph.outputs[:] = [prediction]
    model.opset_imports[DOMAIN] = 1
    marked = {v: _mark(graph, v, topology.tensor_names[i]) for i, v in enumerate(produced)}
    prediction = graph.outputs[0]
    prediction.name = PREDICTION
    tensors = dict(enumerate(marked.values()))
    sums, bases = dict[int, ir.Value](), dict[int, ir.Value]()
    for block in sorted(replaced):
        residual, total = topology.residual(block), topology.sum(block)
        base, port = marked.get(base_of[block], base_of[block]), tensors[topology.tensor(total)]
        name = topology.tensor_names[residual]
        if block in trace.branches:
            base = add_nothing(graph, like=port, name=f"{name}/nothing")
        tensors[residual], sums[total], bases[total] = _add_delta(graph, base, port, name)
    graph.outputs.extend([*tensors.values(), *sums.values(), *bases.values()])
    for value in graph.initializers.values():
        value.const_value = lazy_tensor(value, _reader(pipeline, value.name or ""))
    optimise(model, trace.program.state_dict)
    invariants = hoist(graph)
    outputs = iter(graph.outputs)
    return Master(
        model=model,
        inputs={value.name or "": value for value in graph.inputs},
        invariants=invariants,
        prediction=next(outputs),
        tensors={tensor: next(outputs) for tensor in tensors},
        sums={total: next(outputs) for total in sums},
        bases={total: next(outputs) for total in bases},
        topology=topology,
        layout=trace.layout,
    )


def _mark(graph: ir.Graph, value: ir.Value, name: str) -> ir.Value:
    """Put a boundary node behind `value`; all that read `value` then read the boundary."""
    producer = value.producer()
    if producer is None:
        msg = f"the block output {name!r} is an input of the denoiser, so it cannot be a block"
        raise ExportError(msg)
    boundary = ir.node(BOUNDARY, [value], domain=DOMAIN, version=1)
    result = boundary.outputs[0]
    result.name, result.shape, result.type = name, value.shape, value.type
    ir.convenience.replace_all_uses_with(value, result, replace_graph_outputs=True)
    boundary.replace_input_with(0, value)
    graph.insert_after(producer, boundary)
    return result


def _add_delta(
    graph: ir.Graph, base: ir.Value, port: ir.Value, name: str
) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Add what caches the residual `port - base`, what adds it to the base again, and the base alone."""
    difference = ir.node("Sub", [port, base])
    residual = ir.node(BOUNDARY, difference.outputs, domain=DOMAIN, version=1)
    total = ir.node("Add", [base, residual.outputs[0]])
    # A removed block emits its base: without an attribute, both would be one value to the optimiser.
    alone = ir.node(BOUNDARY, [base], {"alone": 1}, domain=DOMAIN, version=1)
    results = residual.outputs[0], total.outputs[0], alone.outputs[0]
    for value, called in zip(results, (name, f"{name}+base", f"{name}-base"), strict=True):
        value.name, value.shape, value.type = called, port.shape, port.type
    graph.extend([difference, residual, total, alone])
    return results


def _reader(pipeline: Pipeline, name: str) -> Callable[[], torch.Tensor]:
    """How to read the tensor of an initializer: from the weights on disk, or a computed buffer."""
    key = name.removeprefix("denoiser.")
    if key in pipeline.weights:
        return lambda: pipeline.weights.tensor(key)
    buffers = dict(pipeline.denoiser.named_buffers())
    if key in buffers:
        return lambda: buffers[key]
    msg = (
        f"the denoiser's tensor {key!r} is not in {str(pipeline.weights.folder)!r}; "
        "save the pipeline again with save_pretrained"
    )
    raise ExportError(msg)
