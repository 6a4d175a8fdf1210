"""What torch converts, made into ONNX that every engine takes and that computes the same."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import onnx_ir as ir
import onnxruntime
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


def attend(query: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.scaled_dot_product_attention(query, query, query, attn_mask=mask)


def linear(x: torch.Tensor) -> torch.Tensor:
    weight = torch.linspace(-1, 1, 640).reshape(8, 80)
    return torch.nn.functional.linear(x, weight) + 1e-15


DRAW = torch.Generator().manual_seed(0)
FUNCTIONS: dict[str, tuple[Callable[..., torch.Tensor], tuple[torch.Tensor, ...]]] = {
    "a squeeze of what is not 1": (
        lambda x: x.squeeze(1).squeeze(0) * 2,
        (torch.randn(1, 3, 2, generator=DRAW),),
    ),
    "joined types": (
        lambda a, b: torch.concat([a, b]) * 2,
        (torch.ones(4, dtype=torch.float16), torch.full((3,), 0.1)),
    ),
    "a choice that is none": (
        lambda which, x: torch.where(which, x.exp(), x.exp()) * 2,
        (torch.tensor(True), torch.randn(3, generator=DRAW)),
    ),
    "a mask for all queries": (
        attend,
        (torch.randn(1, 2, 3, 4, generator=DRAW), torch.tensor([[[[0.0, -9.0, 1.0]]]])),
    ),
    "a transposed weight": (linear, (torch.randn(2, 80, generator=DRAW),)),
    "a small number": (
        lambda x: x / (x.abs() + 1e-15) * 1.0000001,
        (torch.tensor([0.0, -0.0, 1e-20]),),
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_rewritten_graph_computes_what_torch_does(name: str) -> None:
    function, given = FUNCTIONS[name]
    model = converted(function, *given)
    optimise(model, ())
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [value.name for value in session.get_inputs()]
    inputs = dict(zip(names, (each.numpy() for each in given), strict=True))
    (found,) = session.run(None, inputs)
    expected = function(*given)
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-6, atol=1e-5)


def test_weights_without_elements_stay_in_the_graph() -> None:
    wide, none = torch.nn.Linear(16, 32, bias=False), torch.nn.Linear(16, 0, bias=False)

    class Both(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide, self.none = wide, none

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([self.wide(x), self.none(x)], -1)

    program = torch.export.export(Both(), (torch.ones(2, 3, 16),))
    model = convert(program)
    optimise(model, program.state_dict)
    kept = {
        name: "stepcarve" in value.const_value.meta
        for name, value in model.graph.initializers.items()
        if value.const_value is not None and name.endswith(".T")
    }
    assert kept["wide.weight.T"]
    assert not kept.get("none.weight.T")


def test_tensors_are_indexed_with_64_bits() -> None:
    table, places = torch.arange(12.0).reshape(4, 3), torch.tensor([2, 0, 3], dtype=torch.int32)

    def take(places: torch.Tensor) -> torch.Tensor:
        return table[places - 1, torch.arange(3, dtype=torch.int32)]

    model = ir.to_proto(converted(take, places)).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    [found] = session.run(None, {session.get_inputs()[0].name: places.numpy()})
    assert found.tolist() == take(places).tolist()
