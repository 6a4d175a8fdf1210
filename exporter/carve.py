"""Master graph + one signature -> step graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir
from onnx_ir.passes import common as passes

from exporter.trace import BOUNDARY, DOMAIN, Master

if TYPE_CHECKING:
    from exporter.program import Signature


def carve(master: Master, signature: Signature, name: str) -> ir.Model:
    """The part of the master that one call computes; weights are those of the master.

    Ports that the signature reads become inputs, ports that it writes become outputs, each under the
    port's name. An incomplete cut raises.
    """
    read = [master.ports[port] for port in signature.reads]
    outputs = [master.ports[port] for port in signature.writes]
    if signature.predicts:
        outputs.insert(0, master.prediction)
    graph = ir.convenience.extract(master.model.graph, [*master.inputs.values(), *read], outputs)
    graph.name = name
    for value in [v for v in graph.inputs if not v.uses()]:
        graph.inputs.remove(value)
    _remove_boundaries(graph)
    graph.opset_imports.pop(DOMAIN, None)
    _sort_initializers(graph)
    model = ir.Model(graph, ir_version=master.model.ir_version, producer_name="stepcarve")
    passes.TopologicalSortPass()(model)
    return model


def _sort_initializers(graph: ir.Graph) -> None:
    """By name: extraction collects them in a set, and equal inputs should give equal files."""
    values = sorted(graph.initializers.items())
    graph.initializers.clear()
    graph.initializers.update(values)


def _remove_boundaries(graph: ir.Graph) -> None:
    """Take out the markers.

    One that hands a graph input, or one value twice, to an output stays as an Identity.
    """
    for node in list(graph):
        if (node.domain, node.op_type) != (DOMAIN, BOUNDARY):
            continue
        before, after = node.inputs[0], node.outputs[0]
        if before is None:
            msg = f"boundary {after.name!r} has no input"
            raise ValueError(msg)
        if after.is_graph_output() and (before.is_graph_input() or before.is_graph_output()):
            node.domain, node.op_type = "", "Identity"
            continue
        ir.convenience.replace_all_uses_with(after, before, replace_graph_outputs=True)
        graph.remove(node, safe=True)
        if before.is_graph_output():
            before.name, before.type, before.shape = after.name, after.type, after.shape
