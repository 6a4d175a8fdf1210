"""ArgMax of whole numbers, spelled out: the same positions as numpy's, for all its attributes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from exporter.argmax import decompose_argmax

VALUES = np.array([[[3, 7, 7], [7, 1, 0]], [[-5, -5, -9], [4, 4, 4]]])


def run(kind: ir.DataType, attributes: dict[str, int]) -> tuple[np.ndarray, set[str]]:
    """What a graph of one ArgMax gives once it is spelled out, and its operators."""
    x = ir.Value(name="x", shape=ir.Shape(VALUES.shape), type=ir.TensorType(kind))
    node = ir.node("ArgMax", [x], attributes)
    y = node.outputs[0]
    y.name, y.type = "y", ir.TensorType(ir.DataType.INT64)
    graph = ir.Graph([x], [y], nodes=[node], opset_imports={"": 23}, name="graph")
    decompose_argmax(graph)
    operators = {each.op_type for each in graph}
    model = ir.to_proto(ir.Model(graph, ir_version=10)).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": VALUES.astype(kind.numpy())})
    return found, operators


@pytest.mark.parametrize("kind", [ir.DataType.INT32, ir.DataType.INT64, ir.DataType.INT8])
@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_positions_are_those_of_numpy(
    kind: ir.DataType, axis: int, last: int, keepdims: int
) -> None:
    attributes = {"axis": axis, "select_last_index": last, "keepdims": keepdims}
    found, operators = run(kind, attributes)
    expected = VALUES.argmax(axis, keepdims=bool(keepdims))
    if last:
        turned = np.flip(VALUES, axis).argmax(axis, keepdims=bool(keepdims))
        expected = VALUES.shape[axis] - 1 - turned
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.int64
    assert "ArgMax" not in operators


def test_of_floating_point_numbers_it_stays() -> None:
    assert run(ir.DataType.FLOAT, {"axis": 1})[1] == {"ArgMax"}
