"""The denoiser as one master ONNX graph in which every block boundary is a named value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_ir as ir

from exporter.errors import ExportError
from exporter.graph import BOUNDARY, DOMAIN, convert, lazy_tensor, optimise
from exporter.hoist import hoist
from search.core.topology import port_of
from search.model.trace import module_path
from search.model.weights import on_disk_name

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Set as AbstractSet

    import torch

    from search.core.topology import Topology
    from search.model.pipeline import Pipeline
    from search.model.trace import Trace

PREDICTION = "noise_prediction"
PARTS = "parts."
"""Before the names of tensors of parts around the denoiser."""


@dataclass(frozen=True)
class Master:
    """The whole denoiser in ONNX.

    Attributes:
        model: its graph outputs the noise predictions, all ports and all bases.
        inputs: of the graph, by name; those of the loop include the stand-ins of its invariants.
        invariants: per such stand-in, the value that it stands for.
        predictions: the noise prediction, of each group of steps.
        ports: per port of the topology, its boundary value.
        bases: by port, the requested bases, unless they are zeros.
        topology: of the denoiser.
        layout: per element of the latents, which element of the drawn noise it is; None: its own.
    """

    model: ir.Model
    inputs: dict[str, ir.Value]
    invariants: dict[str, ir.Value]
    predictions: tuple[ir.Value, ...]
    ports: tuple[ir.Value, ...]
    bases: dict[int, ir.Value]
    topology: Topology
    layout: tuple[int, ...] | None

    @property
    def reads(self) -> set[str]:
        """The inputs that something is computed from."""
        return {name for name, value in self.inputs.items() if value.uses()}


def trace_master(pipeline: Pipeline, trace: Trace, bases: AbstractSet[int]) -> Master:
    """Convert `trace` to ONNX, mark the ports, attach the weights lazily and optimise.

    Args:
        pipeline: holds the weights.
        trace: of its denoiser.
        bases: the ports whose bases are wanted.
    """
    model = convert(trace.program)
    graph = model.graph
    for value, name in zip(graph.inputs, trace.inputs, strict=True):
        value.name = name
    topology = trace.topology
    count = topology.group_count
    produced = [graph.outputs[i] for i in trace.port_outputs]
    given = {port: graph.outputs[i] for port, i in trace.base_outputs.items()}
    graph.outputs[:] = graph.outputs[:count]
    model.opset_imports[DOMAIN] = 1
    names = [topology.name(port_of(port)) for port in range(len(produced))]
    marked = {v: _mark(graph, v, name) for v, name in zip(produced, names, strict=True)}
    for group, prediction in enumerate(graph.outputs):
        prediction.name = f"{PREDICTION}_{group}" if group else PREDICTION
    wanted = {
        port: _mark_base(graph, marked.get(value, value), f"{names[port]}-base")
        for port, value in given.items()
        if port in bases
    }
    graph.outputs.extend([*marked.values(), *wanted.values()])
    for value in graph.initializers.values():
        value.const_value = lazy_tensor(value, _reader(pipeline, trace, value.name or ""))
    optimise(model, trace.program.state_dict)
    invariants = hoist(graph)
    outputs = iter(graph.outputs)
    return Master(
        model=model,
        inputs={value.name or "": value for value in graph.inputs},
        invariants=invariants,
        predictions=tuple(next(outputs) for _ in range(count)),
        ports=tuple(next(outputs) for _ in marked),
        bases={port: next(outputs) for port in wanted},
        topology=topology,
        layout=trace.body.layout(),
    )


def _mark(graph: ir.Graph, value: ir.Value, name: str) -> ir.Value:
    """Put a boundary node behind `value`; all that read `value` then read the boundary."""
    producer = value.producer()
    if producer is None:
        msg = f"the block output {name!r} is an input of the denoiser, so it cannot be a block"
        raise ExportError(msg)
    # The attribute keeps apart what two streams compute alike, as long as no prompt has entered.
    boundary = ir.node(BOUNDARY, [value], {"port": name}, domain=DOMAIN, version=1)
    result = boundary.outputs[0]
    result.name, result.shape, result.type = name, value.shape, value.type
    ir.convenience.replace_all_uses_with(value, result, replace_graph_outputs=True)
    boundary.replace_input_with(0, value)
    graph.insert_after(producer, boundary)
    return result


def _mark_base(graph: ir.Graph, base: ir.Value, name: str) -> ir.Value:
    """Give a base a boundary of its own, apart from that of a block which hands it on."""
    # Without an attribute, the optimiser would take a removed block for its base.
    boundary = ir.node(BOUNDARY, [base], {"alone": name}, domain=DOMAIN, version=1)
    result = boundary.outputs[0]
    result.name, result.shape, result.type = name, base.shape, base.type
    graph.append(boundary)
    return result


def _reader(pipeline: Pipeline, trace: Trace, name: str) -> Callable[[], torch.Tensor]:
    """How to read the tensor of an initializer: from the weights on disk, or a computed buffer."""
    for network in pipeline.networks:
        path = f"{module_path(network, pipeline)}."
        key = on_disk_name(name.removeprefix(path))
        if name.startswith(path) and key in (weights := pipeline.weights_of(network)):
            return lambda: weights.tensor(key)
    part, _, inner = name.removeprefix(PARTS).partition(".")
    if name.startswith(PARTS) and inner in (held := getattr(pipeline.pipe, part).state_dict()):
        return lambda: held[inner]
    computed = {**trace.program.state_dict, **trace.program.constants}
    if name in computed:
        return lambda: computed[name]
    msg = (
        f"the denoiser's tensor {name!r} is not in {str(pipeline.path)!r}; "
        "save the pipeline again with save_pretrained"
    )
    raise ExportError(msg)
