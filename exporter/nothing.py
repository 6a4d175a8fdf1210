"""Zeros in the place of branches that are left out, and the additions of zeros taken out of a graph."""

from __future__ import annotations

import onnx_ir as ir

from exporter.graph import DOMAIN

NOTHING = "Nothing"
"""A node of our own that stands for zeros as long as the graph is not carved."""


def add_nothing(graph: ir.Graph, *, like: ir.Value, name: str) -> ir.Value:
    """Zeros of the type and shape of `like`; `name` keeps equal ones apart."""
    made = ir.node(NOTHING, [], {"name": name}, domain=DOMAIN, version=1)
    zeros = made.outputs[0]
    zeros.name, zeros.shape, zeros.type = name, like.shape, like.type
    producer = like.producer()
    if producer is None:
        graph.append(made)
    else:
        graph.insert_before(producer, made)
    return zeros


def take_out_nothing(graph: ir.Graph) -> None:
    """Take out what zeros do nothing to, and all that was computed for it alone, in place.

    x + 0 is x, and x * 0 is 0 again. What else reads zeros, or is an output of the graph, gets them.
    """
    nothing = [node for node in graph if (node.domain, node.op_type) == (DOMAIN, NOTHING)]
    if not nothing:
        return
    pending = [node.outputs[0] for node in nothing]
    zeros: list[ir.Value] = []
    while pending:
        zero = pending.pop()
        zeros.append(zero)
        for node, _ in list(zero.uses()):
            result = node.outputs[0]
            if result.is_graph_output() or result.shape is None:
                continue
            if node.op_type == "Mul":
                again = add_nothing(graph, like=result, name=f"{result.name}/nothing")
                ir.convenience.replace_all_uses_with(result, again)
                pending.append(again)
            elif node.op_type == "Add" and (other := _other(node, zero)) is not None:
                ir.convenience.replace_all_uses_with(result, other)
    _remove_unused(graph)
    for zero in zeros:
        if zero.uses() or zero.is_graph_output():
            _write_out(graph, zero)


def _other(node: ir.Node, zero: ir.Value) -> ir.Value | None:
    """The other summand, if it has the shape of the sum."""
    [*others] = [each for each in node.inputs if each is not zero]
    if len(others) != 1 or others[0] is None or others[0].shape != node.outputs[0].shape:
        return None
    return others[0]


def _remove_unused(graph: ir.Graph) -> None:
    """Remove nodes whose results nobody reads, and the weights that only they read."""
    for node in reversed(list(graph)):
        if not any(value.uses() or value.is_graph_output() for value in node.outputs):
            graph.remove(node, safe=True)
    for name in [n for n, v in graph.initializers.items() if not v.uses()]:
        graph.initializers.pop(name)


def _write_out(graph: ir.Graph, zero: ir.Value) -> None:
    """Let ONNX make these zeros."""
    before = zero.producer()
    if before is None or zero.shape is None or zero.dtype is None:
        msg = f"zeros {zero.name!r} have no node, shape or type"
        raise ValueError(msg)
    shape = ir.node("Constant", [], {"value": ir.tensor(list(zero.shape.numpy()))})
    one = ir.tensor([0], dtype=zero.dtype)
    made = ir.node("ConstantOfShape", [shape.outputs[0]], {"value": one})
    result = made.outputs[0]
    name = zero.name
    result.shape, result.type = zero.shape, zero.type
    graph.insert_before(before, [shape, made])
    ir.convenience.replace_all_uses_with(zero, result, replace_graph_outputs=True)
    graph.remove(before, safe=True)
    result.name = name
