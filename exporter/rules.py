"""Rewrites of one or two nodes, none of which changes a result, not even in its last bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import RewriteRule
from onnxscript.rewriter.rules import common

NARROW = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
"""Types of which float32 holds every number."""


def _neutral(op_type: str, number: float) -> RewriteRule:
    """Drops a node whose second operand is `number`, to the bit.

    onnxscript's own rules take any number close to it, and so drop `x + 1e-15`.
    """

    def node(op: Any, x: Any, constant: Any) -> Any:
        return getattr(op, op_type)(x, constant)

    def identity(op: Any, x: ir.Value, **_: ir.Value) -> Any:
        return op.Identity(x)

    def is_neutral(_: object, x: ir.Value, constant: ir.Value) -> bool:
        tensor = constant.const_value
        if tensor is None or tensor.size != 1:
            return False
        adds_axes = x.shape is None or len(x.shape) < len(tensor.shape)
        if len(tensor.shape) > 0 and adds_axes:
            return False
        found = tensor.numpy()
        return found.tobytes() == np.array(number).astype(found.dtype).tobytes()

    return RewriteRule(node, identity, is_neutral, name=f"{op_type} {number:g}")


def _cast_once() -> RewriteRule:
    """Drops a cast to float32 on the way between two narrower types.

    onnxscript's own rule does it from any type, and so rounds a float64 once where it was rounded twice.
    """

    def node(op: Any, x: Any, to: Any, between: Any) -> Any:
        return op.Cast(op.Cast(x, to=between), to=to)

    def once(op: Any, x: ir.Value, to: ir.Attr, **_: ir.Attr) -> Any:
        return op.Cast(x, to=to)

    def is_exact(_: object, x: ir.Value, to: ir.Attr, between: ir.Attr) -> bool:
        widens = x.dtype in NARROW and between.as_int() == ir.DataType.FLOAT
        return widens and to.as_int() in NARROW

    return RewriteRule(node, once, is_exact, name="CastOnce")


RULES = (
    # -0.0 + 0.0 is 0.0, so what can be added to any number is -0.0, or 0 to an integer.
    _neutral("Add", -0.0),
    _neutral("Sub", 0.0),
    _neutral("Mul", 1.0),
    _neutral("Div", 1.0),
    _cast_once(),
    common.no_op_cast_rule,
    common.no_op_expand_rule,
    common.no_op_transpose_rule,
    common.transpose_transpose_rule,
    common.collapse_slice_rule,
    common.reshape_reshape_rule,
    common.unsqueeze_unsqueeze_rule,
)
"""Those that find something in what torch converts."""
