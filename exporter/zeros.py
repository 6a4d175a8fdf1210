"""Zeros that stand for removed branches, and their removal by constant folding."""

from __future__ import annotations

import onnx_ir as ir

from exporter.graph import DOMAIN

ZEROS = "Zeros"
"""Operator of the placeholder node; `fold_zeros` removes it."""


def add_zeros(graph: ir.Graph, *, like: ir.Value, name: str) -> ir.Value:
    """Zeros of the type and shape of `like`; `name` keeps equal ones apart."""
    made = ir.node(ZEROS, [], {"name": name}, domain=DOMAIN, version=1)
    zeros = made.outputs[0]
    zeros.name, zeros.shape, zeros.type = name, like.shape, like.type
    producer = like.producer()
    if producer is None:
        graph.append(made)
    else:
        graph.insert_before(producer, made)
    return zeros


def fold_zeros(graph: ir.Graph) -> None:
    """Fold x + 0 and x * 0, and remove what no longer has a reader, in place.

    Zeros with other readers, or that are an output of the graph, become a `ConstantOfShape`.
    """
    made = [node for node in graph if (node.domain, node.op_type) == (DOMAIN, ZEROS)]
    if not made:
        return
    pending = [node.outputs[0] for node in made]
    zeros: list[ir.Value] = []
    while pending:
        zero = pending.pop()
        zeros.append(zero)
        for node, _ in list(zero.uses()):
            result = node.outputs[0]
            if result.is_graph_output() or result.shape is None:
                continue
            if node.op_type == "Mul":
                again = add_zeros(graph, like=result, name=f"{result.name}/zeros")
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
    """Replace the placeholder with a `ConstantOfShape`."""
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
