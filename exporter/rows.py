"""The ONNX operations that treat every row (index of the first axis) alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

if TYPE_CHECKING:
    from collections.abc import Sequence

_ELEMENTWISE = frozenset(
    {
        "Add", "Cast", "Cos", "Div", "Erf", "Exp", "Gelu", "Identity", "Mul", "Neg", "Pow",
        "Reciprocal", "Relu", "Sigmoid", "Sin", "Softplus", "Sqrt", "Sub", "Swish", "Tanh",
    }
)  # fmt: skip
_AXIS = {
    "Concat": None,
    "LayerNormalization": -1,
    "RMSNormalization": -1,
    "Softmax": -1,
    "Split": 0,
}
"""Operations along the axis that an attribute gives, and its default."""
_AXES_INPUT = {"Slice": 3, "Squeeze": 1, "Unsqueeze": 1}
"""Operations along the axes that an input gives, and which input."""


def acts_on_rows(node: ir.Node, varying: Sequence[ir.Value]) -> bool:
    """Whether more rows in its `varying` inputs give more rows out, each of them as before.

    All of these have as many rows as what it gives; the other inputs have none, and serve every row.
    An elementwise operation must not make any of its inputs larger: rows are to stay small.
    """
    shapes = [shape_of(value) for value in (*varying, *node.outputs)]
    if not all(shapes) or len({shape[0] for shape in shapes if shape}) != 1:
        return False
    alone = len(varying) == 1 and node.inputs[0] is varying[0]
    if node.op_type in _ELEMENTWISE:
        fixed = [value for value in node.inputs if value is not None and value not in varying]
        return len(set(shapes)) == 1 and all(_serves_all_rows(each, node) for each in fixed)
    if node.op_type == "Gemm":
        transposed = node.attributes.get_int("transA", 0)
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        return alone and not transposed and (bias is None or _serves_all_rows(bias, node))
    if node.op_type == "MatMul":
        return alone and len(shapes[0] or ()) > 1 and _rank(node.inputs[1]) == 2
    if node.op_type == "Reshape":
        return alone
    axes = _axes(node)
    among_rows = len(varying) == len(node.inputs) if node.op_type == "Concat" else alone
    return among_rows and axes is not None and 0 not in axes


def shape_of(value: ir.Value) -> tuple[int, ...] | None:
    """The shape of a value, or None if it is not known."""
    shape = value.shape
    return tuple(shape.numpy()) if shape is not None and shape.is_static() else None


def _rank(value: ir.Value | None) -> int | None:
    shape = None if value is None else shape_of(value)
    return None if shape is None else len(shape)


def _serves_all_rows(value: ir.Value, node: ir.Node) -> bool:
    """Whether an input without rows is broadcast over those of the output."""
    shape, out = shape_of(value), shape_of(node.outputs[0])
    return shape is not None and out is not None and (len(shape) < len(out) or shape[0] == 1)


def _axes(node: ir.Node) -> tuple[int, ...] | None:
    """The axes that a node works along, counted from 0; None if they are not known."""
    if node.op_type in _AXIS:
        axis = node.attributes.get_int("axis", _AXIS[node.op_type])
        axes: tuple[int, ...] | None = None if axis is None else (axis,)
    else:
        axes = _constant(node, _AXES_INPUT.get(node.op_type))
    rank = _rank(node.outputs[0] if node.op_type == "Unsqueeze" else node.inputs[0])
    if axes is None or rank is None:
        return None
    return tuple(axis % rank for axis in axes)


def _constant(node: ir.Node, index: int | None) -> tuple[int, ...] | None:
    value = None if index is None or index >= len(node.inputs) else node.inputs[index]
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None else tuple(int(each) for each in tensor.numpy().ravel())
