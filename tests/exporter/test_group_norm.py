"""Group normalisation, spelled out: what PyTorch computes, and in large pictures as exactly."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from exporter.group_norm import decompose_group_norms


def run(
    shape: tuple[int, ...], groups: int, *, spelled_out: bool, padded: bool = False
) -> tuple[float, set[str]]:
    """Relative error of one group normalisation on ONNX Runtime against float64, and its operators."""
    torch.manual_seed(0)
    values = torch.randn(shape) + 2
    if padded:
        values[..., 1:] = values[..., 1:2] + 20
    scale, bias = torch.randn(shape[1]), torch.randn(shape[1])
    kind = ir.TensorType(ir.DataType.FLOAT)
    inputs = [
        ir.Value(name=name, shape=ir.Shape(each.shape), type=kind)
        for name, each in (("x", values), ("scale", scale), ("bias", bias))
    ]
    node = ir.node("GroupNormalization", inputs, {"num_groups": groups, "epsilon": 1e-6})
    y = node.outputs[0]
    y.name, y.type, y.shape = "y", kind, ir.Shape(shape)
    graph = ir.Graph(inputs, [y], nodes=[node], opset_imports={"": 23}, name="graph")
    if spelled_out:
        decompose_group_norms(graph)
    model = ir.to_proto(ir.Model(graph, ir_version=10)).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    given = {"x": values.numpy(), "scale": scale.numpy(), "bias": bias.numpy()}
    (found,) = session.run(["y"] if not spelled_out else None, given)
    wide = (each.double() for each in (scale, bias))
    expected = torch.nn.functional.group_norm(values.double(), groups, *wide, eps=1e-6).numpy()
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    return float(error), {each.op_type for each in graph}


@pytest.mark.parametrize(
    ("shape", "groups"),
    [((2, 8, 6, 4), 4), ((1, 6, 7), 3), ((3, 5, 1, 13), 1), ((1, 4, 2, 3, 5), 2)],
)
def test_it_is_pytorch_s(shape: tuple[int, ...], groups: int) -> None:
    error, operators = run(shape, groups, spelled_out=True)
    assert error < 2e-7
    assert "GroupNormalization" not in operators


def test_large_groups_keep_their_digits() -> None:
    shape = (1, 8, 256, 256)
    error, _ = run(shape, 4, spelled_out=True)
    assert error < 3e-7 < run(shape, 4, spelled_out=False)[0]


def test_what_is_padding_nearly_everywhere_keeps_its_digits() -> None:
    error, _ = run((2, 32, 77), 32, spelled_out=True, padded=True)
    assert error < 3e-6 < run((2, 32, 77), 32, spelled_out=False, padded=True)[0]
