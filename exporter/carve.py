"""Master graph + one signature -> step graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir
from onnx_ir.passes import common as passes

from exporter.graph import BOUNDARY, DOMAIN, forget_inner_types, sort_initializers
from exporter.nothing import take_out_nothing

if TYPE_CHECKING:
    from exporter.trace import Master
    from search.core.program import Signature


def carve(master: Master, signature: Signature, name: str) -> ir.Model:
    """The part of the master that one call computes; weights are those of the master.

    Tensors that the signature reads become inputs, tensors that it writes become outputs, each under
    its name. A block whose sum is computed is cut off, and its sum or its base put in its place. An
    incomplete cut raises.
    """
    sums = _sums(master, signature)
    read = [master.tensors[tensor] for tensor in (*signature.reads, *sums)]
    outputs = [sums.get(tensor, master.tensors[tensor]) for tensor in signature.writes]
    if signature.predicts:
        outputs.insert(0, master.prediction)
    inside = [value for value in sums.values() if value not in outputs]
    graph = ir.convenience.extract(
        master.model.graph, [*master.inputs.values(), *read], [*outputs, *inside]
    )
    graph.name = name
    _put_in_place(graph, {master.tensors[port].name: value.name for port, value in sums.items()})
    del graph.outputs[len(outputs) :]
    _remove_boundaries(graph)
    take_out_nothing(graph)
    for value in [v for v in graph.inputs if not v.uses()]:
        graph.inputs.remove(value)
    graph.opset_imports.pop(DOMAIN, None)
    forget_inner_types(graph)
    sort_initializers(graph)
    model = ir.Model(graph, ir_version=master.model.ir_version, producer_name="stepcarve")
    passes.TopologicalSortPass()(model)
    return model


def _sums(master: Master, signature: Signature) -> dict[int, ir.Value]:
    """By port, what a call puts in its place: base plus residual (DELTA), or the base alone (SKIP)."""
    topology = master.topology
    return {
        topology.tensor(total): (
            master.sums if topology.added(total) in signature.reads else master.bases
        )[total]
        for total in signature.computes
        if topology.is_sum(total)
    }


def _put_in_place(graph: ir.Graph, sums: dict[str | None, str | None]) -> None:
    """Let the graph's own sums take the place and the names of the inputs that stand for them."""
    values = {value.name: value for value in (*graph.inputs, *graph.outputs)}
    for port, total in sums.items():
        ir.convenience.replace_all_uses_with(values[port], values[total])
        graph.inputs.remove(values[port])
        values[total].name = port


def _remove_boundaries(graph: ir.Graph) -> None:
    """Take out the markers; what they marked keeps their name, by which a block's output is found.

    One that hands a graph input, or one value twice, to an output stays as an Identity.
    """
    named = set[ir.Value]()
    for node in list(graph):
        if (node.domain, node.op_type) != (DOMAIN, BOUNDARY):
            continue
        before, after = node.inputs[0], node.outputs[0]
        if before is None:
            msg = f"boundary {after.name!r} has no input"
            raise ValueError(msg)
        if after.is_graph_output() and (before.is_graph_input() or before.is_graph_output()):
            node.domain, node.op_type = "", "Identity"
            node.attributes.clear()
            continue
        ir.convenience.replace_all_uses_with(after, before, replace_graph_outputs=True)
        graph.remove(node, safe=True)
        if before.is_graph_output():
            before.name, before.type, before.shape = after.name, after.type, after.shape
        elif before.producer() is not None and before not in named:
            before.name = after.name
        named.add(before)
