"""Which operations act on rows; those that are said to do give the same, row by row."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from exporter.rows import acts_on_rows

HEAD = '<ir_version: 10, opset_import: ["" : 23]>'
ROWS = 2
CONSTANTS = {
    "one": np.array([1], np.int64),
    "zero": np.array([0], np.int64),
    "three": np.array([3], np.int64),
    "folded": np.array([-1, 2, 3], np.int64),
    "vector": np.linspace(-1, 1, 6, dtype=np.float32),
    "row": np.linspace(-1, 1, 6, dtype=np.float32)[None],
    "both_rows": np.linspace(-1, 1, 12, dtype=np.float32).reshape(2, 6),
    "weight": np.linspace(-1, 1, 24, dtype=np.float32).reshape(6, 4),
    "square": np.linspace(-1, 1, 4, dtype=np.float32).reshape(2, 2),
}

ACCEPTED = [
    "y = Add(a, b)",
    "y = Mul(a, a)",
    "y = Sigmoid(a)",
    "y = Add(a, vector)",
    "y = Mul(row, a)",
    "y = Gemm(a, weight)",
    "y = MatMul(a, weight)",
    "y = Concat<axis=-1>(a, b)",
    "y = Softmax<axis=1>(a)",
    "y = LayerNormalization<axis=-1>(a, vector)",
    "y = Reshape(a, folded)",
    "y = Unsqueeze(a, one)",
    "y = Slice(a, zero, three, one)",
    "y = Split<axis=1, num_outputs=2>(a)",
]
REFUSED = [
    "y = Add(a, both_rows)",
    "y = Add(a, wide)",
    "y = Gemm<transA=1>(a, square)",
    "y = MatMul(square, a)",
    "y = Concat<axis=0>(a, b)",
    "y = Concat<axis=1>(a, both_rows)",
    "y = Softmax<axis=0>(a)",
    "y = Unsqueeze(a, zero)",
    "y = Slice(a, zero, one, zero)",
    "y = Split<axis=0, num_outputs=2>(a)",
    "y = Transpose<perm=[1, 0]>(a)",
    "y = CumSum(a, zero)",
]


def graph_of(line: str) -> onnx.ModelProto:
    """A model of one node over the inputs `a`, `b` `[2, 6]` and `wide` `[2, 2, 6]`."""
    text = f"{HEAD} g (float[2, 6] a, float[2, 6] b, float[2, 2, 6] wide) => (y) {{ {line} }}"
    model = onnx.parser.parse_model(text.replace("y = Split", "y, z = Split"))
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(array, name) for name, array in CONSTANTS.items()
    )
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def verdict(model: onnx.ModelProto) -> bool:
    graph = ir.from_proto(model).graph
    (node,) = graph
    return acts_on_rows(node, [v for v in node.inputs if v is not None and v.is_graph_input()])


@pytest.mark.parametrize("line", ACCEPTED)
def test_more_rows_give_more_of_the_same(line: str) -> None:
    model = graph_of(line)
    assert verdict(model)
    random = np.random.default_rng(0)
    wide = np.zeros((ROWS, 2, 6), np.float32)
    calls = [{n: random.standard_normal((ROWS, 6)).astype(np.float32) for n in "ab"} for _ in "xyz"]
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = ROWS * len(calls)
    run = ReferenceEvaluator(model).run
    expected = [run(None, {**call, "wide": wide})[0] for call in calls]
    together = {n: np.concatenate([call[n] for call in calls]) for n in "ab"}
    found = run(None, {**together, "wide": wide})[0]
    np.testing.assert_allclose(found, np.concatenate(expected), rtol=1e-6)


@pytest.mark.parametrize("line", REFUSED)
def test_what_mixes_or_enlarges_rows_is_told(line: str) -> None:
    assert not verdict(graph_of(line))
