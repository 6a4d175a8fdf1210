"""What torch converts, made into ONNX that every engine takes."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import onnx_ir as ir
import pytest
import torch

from exporter.graph import convert, optimise


class Module(torch.nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        return self.function(*values)


def converted(function: Callable[..., torch.Tensor], *values: torch.Tensor) -> ir.Model:
    return convert(torch.export.export(Module(function), values))


def infer(model: ir.Model) -> None:
    """Raise unless all types agree."""
    onnx.shape_inference.infer_shapes(ir.to_proto(model), check_type=True, strict_mode=True)


def test_joined_values_get_the_type_that_torch_promotes_to() -> None:
    model = converted(
        lambda a, b: torch.concat([a, b]) * 2, torch.ones(4, dtype=torch.float16), torch.ones(3)
    )
    with pytest.raises(onnx.shape_inference.InferenceError, match="inconsistent type"):
        infer(model)
    optimise(model, ())
    infer(model)
    assert model.graph.outputs[0].dtype == ir.DataType.FLOAT


def test_joined_values_of_one_type_are_left_alone() -> None:
    model = converted(lambda a, b: torch.concat([a, b]) * 2, torch.ones(4), torch.ones(3))
    optimise(model, ())
    assert "Cast" not in {node.op_type for node in model.graph}


def test_a_choice_between_a_value_and_itself_is_none() -> None:
    def choose(which: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return torch.where(which, x.exp(), x.exp()) * 2

    model = converted(choose, torch.tensor(True), torch.ones(3))
    optimise(model, ())
    assert [node.op_type for node in model.graph] == ["Exp", "Mul"]


def test_a_choice_between_two_values_stays() -> None:
    model = converted(
        lambda which, x: torch.where(which, x.exp(), x) * 2, torch.tensor(True), torch.ones(3)
    )
    optimise(model, ())
    assert "Where" in {node.op_type for node in model.graph}
