"""Integer ArgMax, with which CLIP finds the end of its text, written with operations that GPUs have.

ONNX Runtime's CUDA provider has ArgMax kernels for floating-point numbers only, and would refuse the
graph. It has int64 kernels of the operations used here.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir


def decompose_argmax(graph: ir.Graph) -> None:
    """Replace each ArgMax of whole numbers by the least of the positions that hold the maximum."""
    for node in list(graph):
        values = node.inputs[0] if node.op_type == "ArgMax" else None
        if values is None or values.dtype is None or not values.dtype.is_integer():
            continue
        nodes = _nodes(node, values)
        result, after = nodes[-1].outputs[0], node.outputs[0]
        result.type, result.shape = after.type, after.shape
        graph.insert_before(node, nodes)
        ir.convenience.replace_all_uses_with(after, result, replace_graph_outputs=True)
        graph.remove(node, safe=True)


def _nodes(node: ir.Node, values: ir.Value) -> list[ir.Node]:
    """What takes the place of `node`; the last one gives its result."""
    if values.shape is None or not values.shape.is_static():
        msg = f"the ArgMax {node.name!r} has values of unknown shape"
        raise ValueError(msg)
    rank = len(values.shape)
    axis = _number(node, "axis", 0) % rank
    count = int(values.shape[axis])  # type: ignore[arg-type]
    last = _number(node, "select_last_index", 0)
    positions = np.arange(count).reshape([-1 if each == axis else 1 for each in range(rank)])
    along, place, nowhere = map(_constant, ([axis], positions, -1 if last else count))
    wide = ir.node("Cast", [values], {"to": ir.DataType.INT64})
    most = ir.node("ReduceMax", [wide.outputs[0], along.outputs[0]], {"keepdims": 1})
    equal = ir.node("Equal", [wide.outputs[0], most.outputs[0]])
    held = ir.node("Where", [equal.outputs[0], place.outputs[0], nowhere.outputs[0]])
    found = ir.node(
        "ReduceMax" if last else "ReduceMin",
        [held.outputs[0], along.outputs[0]],
        {"keepdims": _number(node, "keepdims", 1)},
    )
    return [along, place, nowhere, wide, most, equal, held, found]


def _constant(value: object) -> ir.Node:
    return ir.node("Constant", [], {"value": ir.tensor(np.array(value, np.int64))})


def _number(node: ir.Node, name: str, default: int) -> int:
    """An attribute of `node`."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()
