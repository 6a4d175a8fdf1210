"""Integers in the master graph: stored, shared and rounded as numpy does it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import nn

from engines.onnxruntime import session_options
from exporter.errors import ExportError
from exporter.quantise import StoredWeights, quantise, quantise_weights
from exporter.weights import keep
from search.core.quantisation import (
    SCHEMES,
    Layer,
    Quantisation,
    Scheme,
    scheme_named,
    weight_schemes,
)
from search.quantise.rounded import round_part, round_weights, rounded

WIDE = 64


def two_layers() -> tuple[ir.Graph, nn.Sequential]:
    """Two linear layers of the same width, as a graph and in PyTorch."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(WIDE, WIDE, bias=False), nn.Linear(WIDE, WIDE, bias=False))
    kind = ir.TensorType(ir.DataType.FLOAT)
    sample = ir.Value(name="sample", shape=ir.Shape((3, WIDE)), type=kind)
    value, nodes, weights = sample, [], []
    for name, each in (("0", module[0]), ("1", module[1])):
        array = each.weight.detach().numpy().T.copy()
        weight = ir.Value(
            name=f"denoiser.{name}.weight.T",
            shape=ir.Shape(array.shape),
            type=kind,
            const_value=ir.tensor(array, name=f"denoiser.{name}.weight.T"),
        )
        keep(weight, weight.name)
        node = ir.node("MatMul", [value, weight])
        value = node.outputs[0]
        value.name, value.shape, value.type = f"y{name}", sample.shape, kind
        nodes.append(node)
        weights.append(weight)
    graph = ir.Graph(
        [sample], [value], nodes=nodes, initializers=weights, opset_imports={"": 23}, name="g"
    )
    return graph, module


def quantised(graph: ir.Graph, plan: Quantisation) -> frozenset[str]:
    master: Any = SimpleNamespace(model=ir.Model(graph, ir_version=10))
    return quantise(master, plan).weights


def run(
    graph: ir.Graph, sample: np.ndarray, options: onnxruntime.SessionOptions | None = None
) -> np.ndarray:
    """The graph on ONNX Runtime; without options as it is written: no kernel takes another's place."""
    for name in [n for n, v in graph.initializers.items() if not v.uses()]:
        graph.initializers.pop(name)
    if options is None:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    model = ir.to_proto(ir.Model(graph, ir_version=10)).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"sample": sample})
    return found


def layers_for(module: nn.Sequential, sample: torch.Tensor) -> dict[str, Layer]:
    with torch.no_grad():
        inputs = (sample, module[0](sample))
    return {f"{i}.weight": Layer(float(x.min()), float(x.max())) for i, x in enumerate(inputs)}


def smoothed_for(module: nn.Sequential, sample: torch.Tensor) -> dict[str, Layer]:
    """The same, with the channels divided by other powers of two in each layer."""
    layers = layers_for(module, sample)
    powers = ((1, -1, *[0] * (WIDE - 2)), (0, *[-1] * (WIDE - 1)))
    return {
        name: replace(layer, low=2 * layer.low, high=2 * layer.high, exponents=exponents)
        for (name, layer), exponents in zip(layers.items(), powers, strict=True)
    }


LAYERS = [
    *((scheme, layers_for) for scheme in SCHEMES),
    *((scheme, smoothed_for) for scheme in SCHEMES if scheme.inputs),
]


@pytest.mark.parametrize(
    ("scheme", "layers"), LAYERS, ids=[f"{s.name}-{f.__name__}" for s, f in LAYERS]
)
def test_the_graph_rounds_as_pytorch_does(
    scheme: Scheme, layers: Callable[[nn.Sequential, torch.Tensor], dict[str, Layer]]
) -> None:
    graph, module = two_layers()
    sample = torch.randn(3, WIDE)
    plan = Quantisation(scheme, layers(module, sample))
    assert quantised(graph, plan) == {"0.weight", "1.weight"}
    found = run(graph, sample.numpy())
    plain = module(sample).detach().numpy()
    names = {f"{i}.weight": module[i] for i in range(2)}
    with torch.no_grad(), rounded(names, plan):
        expected = module(sample).numpy()
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    off = np.linalg.norm(found - plain) / np.linalg.norm(plain)
    # A rounding that falls the other way changes one number by a step, not the picture.
    assert error < 0.3 * off
    assert 1e-3 < off < 0.2
    assert torch.equal(module(sample), torch.from_numpy(plain)), "the weights are as they were"


def test_weights_are_stored_in_few_bytes_and_made_when_they_are_read() -> None:
    graph, module = two_layers()
    quantised(graph, Quantisation(scheme_named("int8"), layers_for(module, torch.randn(3, WIDE))))
    stored = graph.initializers["denoiser.0.weight.T.int8"]
    assert isinstance(stored.const_value, ir.LazyTensor)
    assert (stored.dtype, stored.const_value.nbytes) == (ir.DataType.INT8, WIDE * WIDE)
    assert graph.initializers["denoiser.0.weight.T.int8.scale"].const_value.shape == (WIDE,)


def test_layers_that_are_left_out_stay_as_they_are() -> None:
    graph, module = two_layers()
    layers = layers_for(module, torch.randn(3, WIDE))
    first = {"0.weight": layers["0.weight"]}
    plan = Quantisation(scheme_named("int8"), first, kept={"1.weight": layers["1.weight"]})
    assert quantised(graph, plan) == {"0.weight"}
    assert graph.initializers["denoiser.1.weight.T"].uses()
    assert [n.op_type for n in graph].count("QuantizeLinear") == 1


def test_weights_alone_need_no_plan() -> None:
    graph, _ = two_layers()
    assert quantised(graph, Quantisation.of_weights(scheme_named("int8-weights"))) == {
        "0.weight",
        "1.weight",
    }
    assert [n.op_type for n in graph].count("QuantizeLinear") == 0


@pytest.mark.parametrize("alike", [True, False])
def test_what_layers_take_is_divided_and_rounded_once(alike: bool) -> None:
    graph, _ = two_layers()
    first, second = (node for node in graph if node.op_type == "MatMul")
    second.replace_input_with(0, first.inputs[0])
    exponents = ((1, *[0] * (WIDE - 1)), (int(alike), *[0] * (WIDE - 1)))
    layers = {f"{i}.weight": Layer(-2, 2, exponents=each) for i, each in enumerate(exponents)}
    quantised(graph, Quantisation(scheme_named("int8"), layers))
    types = [node.op_type for node in graph]
    assert types.count("QuantizeLinear") == types.count("Mul") == (1 if alike else 2)


def test_exponents_for_another_width_are_refused() -> None:
    graph, _ = two_layers()
    plan = Quantisation(scheme_named("int8"), {"0.weight": Layer(-1, 1, exponents=(1, 2))})
    with pytest.raises(
        ExportError, match=rf"2 exponents for '0.weight', which has {WIDE} .*; make it again"
    ):
        quantised(graph, plan)


@pytest.mark.parametrize("scheme", weight_schemes(), ids=lambda each: each.name)
@pytest.mark.parametrize("axis", [0, 1])
def test_a_matrix_is_rounded_alike_however_it_lies(scheme: Scheme, axis: int) -> None:
    """Gemm multiplies the matrix `[out, in]`, MatMul its transpose."""
    weights = torch.randn(WIDE // 2, WIDE)
    array = (weights.T if axis else weights).numpy().copy()
    kind = ir.TensorType(ir.DataType.FLOAT)
    value = ir.Value(
        name="w", shape=ir.Shape(array.shape), type=kind, const_value=ir.tensor(array, name="w")
    )
    integers, scales = (
        each.numpy().astype(np.float32) for each in StoredWeights.of(value, axis, scheme, Layer())
    )
    if scales.ndim == 1:
        scales = np.expand_dims(scales, 1 - axis)
    made = integers * scales.repeat(array.shape[1 - axis] // scales.shape[1 - axis], 1 - axis)
    expected = round_weights(weights, scheme).numpy()
    np.testing.assert_allclose(made.T if axis else made, expected, rtol=1e-6)


def a_convolution(scheme: Scheme) -> tuple[ir.Graph, nn.Conv2d, Quantisation]:
    """One with a bias, quantised."""
    module = nn.Conv2d(8, 6, 3)
    kind = ir.TensorType(ir.DataType.FLOAT)
    arrays = {"denoiser.0.weight": module.weight, "denoiser.0.bias": module.bias}
    values = [
        ir.Value(name=n, shape=ir.Shape(p.shape), type=kind, const_value=ir.tensor(p.detach()))
        for n, p in arrays.items()
    ]
    sample = ir.Value(name="sample", shape=ir.Shape((2, 8, 5, 5)), type=kind)
    node = ir.node("Conv", [sample, *values])
    made = node.outputs[0]
    made.name, made.shape, made.type = "y", ir.Shape((2, 6, 3, 3)), kind
    graph = ir.Graph(
        [sample], [made], nodes=[node], initializers=values, opset_imports={"": 23}, name="g"
    )
    plan = Quantisation(scheme, {"0.weight": Layer(-3, 4)})
    quantised(graph, plan)
    return graph, module, plan


@pytest.mark.parametrize("name", ["int8", "int8-symmetric", "int8-weights"])
def test_a_convolution_runs_as_the_engine_loads_it(name: str) -> None:
    graph, module, plan = a_convolution(scheme_named(name))
    sample = torch.randn(2, 8, 5, 5)
    found = run(graph, sample.numpy(), session_options(1))
    with torch.no_grad(), rounded({"0.weight": module}, plan):
        expected = module(sample).numpy()
    assert np.linalg.norm(found - expected) < 2e-3 * np.linalg.norm(expected)


def test_weights_of_a_part_are_stored_by_name() -> None:
    graph, module = two_layers()
    sample = torch.randn(3, WIDE)
    scheme = scheme_named("int8-weights")
    plain = module(sample).detach().numpy()
    undo = round_part(module[0], scheme)
    expected = module(sample).detach().numpy()
    undo()
    assert np.array_equal(module(sample).detach().numpy(), plain)
    quantise_weights(graph, {"denoiser.0.weight": scheme})
    assert {"denoiser.0.weight.T.int8-weights", "denoiser.1.weight.T"} < set(graph.initializers)
    assert "denoiser.0.weight.T" not in graph.initializers
    found = run(graph, sample.numpy())
    assert np.linalg.norm(found - expected) < 1e-5 * np.linalg.norm(expected)
    assert np.linalg.norm(found - plain) > 1e-3 * np.linalg.norm(plain)


def test_a_plan_for_another_denoiser_is_refused() -> None:
    graph, _ = two_layers()
    plan = Quantisation(scheme_named("int8"), {"other.weight": Layer(-1, 1)})
    with pytest.raises(
        ExportError, match=r"has the layer 'other.weight', which is not in the denoiser's loop"
    ):
        quantised(graph, plan)


def test_what_does_not_depend_on_the_latents_is_left_alone() -> None:
    graph, module = two_layers()
    graph.inputs[0].name = "prompt"  # of the prompt alone, so the prologue computes it once
    plan = Quantisation(scheme_named("int8"), layers_for(module, torch.randn(3, WIDE)))
    with pytest.raises(ExportError, match="which is not in the denoiser's loop"):
        quantised(graph, plan)
