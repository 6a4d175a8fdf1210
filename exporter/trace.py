"""The denoiser as one master ONNX graph in which every block boundary is a named value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_ir as ir

from exporter.errors import ExportError
from exporter.graph import convert, lazy_tensor, optimise
from exporter.program import port_names

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from search.model.pipeline import Pipeline
    from search.model.trace import Trace

DOMAIN = "stepcarve"
BOUNDARY = "Boundary"
"""An identity that no optimisation sees through: what is cut there is exactly the block's output."""
PREDICTION = "noise_prediction"


@dataclass(frozen=True)
class Master:
    """The whole denoiser in ONNX.

    Attributes:
        model: its graph outputs the noise prediction and all ports.
        inputs: the loop's inputs by name.
        prediction: the noise prediction.
        ports: per port of the topology, its boundary value.
        weights: the initializers that belong in the weights file.
    """

    model: ir.Model
    inputs: dict[str, ir.Value]
    prediction: ir.Value
    ports: tuple[ir.Value, ...]
    weights: list[ir.Value]


def trace_master(pipeline: Pipeline, trace: Trace) -> Master:
    """Convert `trace` to ONNX, mark the ports, attach the weights lazily and optimise."""
    model = convert(trace.program)
    graph = model.graph
    for value, name in zip(graph.inputs, trace.inputs, strict=True):
        value.name = name
    prediction = graph.outputs[0]
    names = port_names(trace.topology)
    produced = [graph.outputs[i] for i in trace.port_outputs]
    graph.outputs[:] = [prediction]
    model.opset_imports[DOMAIN] = 1
    ports = tuple(_mark(graph, v, name) for v, name in zip(produced, names, strict=True))
    prediction = graph.outputs[0]
    prediction.name = PREDICTION
    graph.outputs.extend(ports)
    for value in graph.initializers.values():
        value.const_value = lazy_tensor(value, _reader(pipeline, value.name or ""))
    weights = optimise(model, "denoiser")
    prediction, *marked = graph.outputs
    inputs = {value.name or "": value for value in graph.inputs}
    return Master(model, inputs, prediction, tuple(marked), weights)


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
