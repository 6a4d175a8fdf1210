"""Group normalisation of large pictures, written so that its means keep their digits.

ONNX Runtime's CPU provider adds the numbers of a group one after the other. With the 262,144 pixels of a
512x512 picture, the decoder is then 44 times as far from PyTorch as rounding makes it; with means of means
of about equal length, 1.4 times (shapes-sd's decoder). The variance is the mean of the squared deviations,
not a difference of large numbers, of which nothing is left where a text is padding nearly everywhere.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

if TYPE_CHECKING:
    from collections.abc import Callable


def decompose_group_norms(
    graph: ir.Graph, where: Callable[[ir.Node], bool] = lambda _: True
) -> None:
    """Replace each GroupNormalization by means in two stages, subtraction and division."""
    for node in list(graph):
        if node.op_type != "GroupNormalization" or not where(node):
            continue
        nodes = _nodes(node)
        result, after = nodes[-1].outputs[0], node.outputs[0]
        result.type, result.shape = after.type, after.shape
        if after.is_graph_output():
            result.name = after.name
        graph.insert_before(node, nodes)
        ir.convenience.replace_all_uses_with(after, result, replace_graph_outputs=True)
        graph.remove(node, safe=True)


def _nodes(node: ir.Node) -> list[ir.Node]:
    """What takes the place of `node`; the last one gives its result."""
    values, scale, bias = node.inputs
    if values is None or values.shape is None or not values.shape.is_static():
        msg = f"the GroupNormalization {node.name!r} has values of unknown shape"
        raise ValueError(msg)
    shape = values.shape.numpy()
    groups = node.attributes["num_groups"].as_int()
    epsilon = node.attributes.get("epsilon")
    rows, columns = _sides(math.prod(shape[1:]) // groups)
    nodes: list[ir.Node] = []

    def add(kind: str, *inputs: ir.Value | None) -> ir.Value:
        nodes.append(ir.node(kind, inputs))
        return nodes[-1].outputs[0]

    def constant(value: object, dtype: type) -> ir.Value:
        nodes.append(ir.node("Constant", [], {"value": ir.tensor(np.array(value, dtype))}))
        return nodes[-1].outputs[0]

    def mean(value: ir.Value) -> ir.Value:
        # Two operators: OpenVINO would merge two ReduceMeans into one.
        of_rows = add("ReduceMean", value, constant([3], np.int64))
        total = add("ReduceSum", of_rows, constant([2], np.int64))
        return add("Div", total, constant(rows, np.float32))

    def per_channel(value: ir.Value | None) -> ir.Value:
        return add("Reshape", value, constant([1, -1] + [1] * (len(shape) - 2), np.int64))

    def in_float32(value: ir.Value | None) -> ir.Value | None:
        if value is None or value.dtype == ir.DataType.FLOAT:
            return value
        return cast(value, ir.DataType.FLOAT)

    def cast(value: ir.Value, to: ir.DataType) -> ir.Value:
        nodes.append(ir.node("Cast", [value], {"to": to.value}))
        return nodes[-1].outputs[0]

    wide, scale, bias = map(in_float32, (values, scale, bias))
    grouped = add("Reshape", wide, constant([shape[0], groups, rows, columns], np.int64))
    deviation = add("Sub", grouped, mean(grouped))
    variance = mean(add("Mul", deviation, deviation))
    least = constant(1e-5 if epsilon is None else epsilon.as_float(), np.float32)
    normal = add("Div", deviation, add("Sqrt", add("Add", variance, least)))
    whole = add("Reshape", normal, constant(shape, np.int64))
    made = add("Add", add("Mul", whole, per_channel(scale)), per_channel(bias))
    if wide is not values and values.dtype is not None:
        cast(made, values.dtype)
    return nodes


def _sides(count: int) -> tuple[int, int]:
    """Two factors of `count`, as near to each other as there are."""
    rows = next(each for each in range(math.isqrt(count), 0, -1) if count % each == 0)
    return rows, count // rows
