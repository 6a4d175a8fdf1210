"""Master graph + one signature -> step graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir
from onnx_ir.passes import common as passes

from exporter.graph import BOUNDARY, DOMAIN, forget_inner_types, sort_initializers
from exporter.mix import add_mix, residual
from exporter.zeros import fold_zeros
from search.core.names import PREDICTION
from search.core.topology import TargetKind, port_of

if TYPE_CHECKING:
    from exporter.trace import Master
    from search.core.program import Signature


def carve(master: Master, signature: Signature, name: str) -> ir.Model:
    """The part of the master that one call computes; weights are those of the master.

    Tensors that the signature reads become inputs, tensors that it writes become outputs, each under
    its name. A port in whose place an action emits something else is cut off, and what the action
    mixes is put there. An incomplete cut raises.
    """
    graph = _extracted(master, signature)
    graph.name = name
    _put_mixes_in_place(graph, master, signature)
    _give(graph, master, signature)
    graph.sort()
    _remove_boundaries(graph)
    fold_zeros(graph)
    for value in [v for v in graph.inputs if not v.uses()]:
        graph.inputs.remove(value)
    graph.opset_imports.pop(DOMAIN, None)
    forget_inner_types(graph)
    sort_initializers(graph)
    model = ir.Model(graph, ir_version=master.model.ir_version, producer_name="stepcarve")
    passes.TopologicalSortPass()(model)
    return model


def _extracted(master: Master, signature: Signature) -> ir.Graph:
    """What leads to the prediction, ports and bases that the signature needs, cut at what is there."""
    mixed = {target.port for target in signature.mixes}
    cut = mixed | {tensor.port for tensor in signature.reads if tensor.kind is TargetKind.PORT}
    wanted = [master.predictions[signature.group]] if signature.predicts else []
    wanted += [master.ports[t.port] for t in signature.writes if t.port not in cut]
    wanted += [
        master.bases[t.base]
        for t in (*signature.mixes, *signature.writes)
        if t.base in master.bases
    ]
    inputs = [*master.inputs.values(), *(master.ports[port] for port in sorted(cut))]
    return ir.convenience.extract(master.model.graph, inputs, list(dict.fromkeys(wanted)))


def _put_mixes_in_place(graph: ir.Graph, master: Master, signature: Signature) -> None:
    """Let what the actions mix take the place and the names of the inputs that stand for the ports."""
    values = _values(graph)
    for target in signature.mixes:
        port = values[master.ports[target.port].name]
        base = master.bases.get(target.base)
        mix = add_mix(
            graph,
            target,
            name=master.topology.name,
            like=port,
            base=None if base is None else values[base.name],
        )
        ir.convenience.replace_all_uses_with(port, mix)
        graph.inputs.remove(port)
        mix.name = port.name


def _give(graph: ir.Graph, master: Master, signature: Signature) -> None:
    """Make the graph's outputs those of the signature."""
    values, topology = _values(graph), master.topology
    outputs = []
    if signature.predicts:
        prediction, name = values[master.predictions[signature.group].name], PREDICTION
        if (inner := values.get(name)) not in (None, prediction):
            inner.name = f"{name}/inner"  # that of another group is on the way to it
        prediction.name = name
        outputs.append(prediction)
    for tensor in signature.writes:
        value = values[topology.name(port_of(tensor.port))]
        if tensor.kind is TargetKind.RESIDUAL:
            base = master.bases.get(tensor.base)
            value = residual(
                graph, value, None if base is None else values[base.name], topology.name(tensor)
            )
        outputs.append(value)
    graph.outputs[:] = outputs


def _values(graph: ir.Graph) -> dict[str | None, ir.Value]:
    """What the graph takes and computes, by name."""
    made = (value for node in graph for value in node.outputs)
    return {value.name: value for value in (*graph.inputs, *made)}


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
        becomes_output = after.is_graph_output()
        ir.convenience.replace_all_uses_with(after, before, replace_graph_outputs=True)
        graph.remove(node, safe=True)
        if becomes_output:
            before.name, before.type, before.shape = after.name, after.type, after.shape
        elif before.producer() is not None and before not in named and not before.is_graph_output():
            before.name = after.name
        named.add(before)
