"""Integers in the master graph: stored, shared and rounded as numpy does it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import nn

from exporter.errors import ExportError
from exporter.quantise import quantise
from exporter.weights import keep
from search.core.quantisation import SCHEMES, Layer, Quantisation, Scheme, scheme_named
from search.quantise.rounded import rounded

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
    return quantise(master, plan)


def run(graph: ir.Graph, sample: np.ndarray) -> np.ndarray:
    """The graph on ONNX Runtime, as it is written: no kernel takes another's place."""
    for name in [n for n, v in graph.initializers.items() if not v.uses()]:
        graph.initializers.pop(name)
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


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda each: each.name)
def test_the_graph_rounds_as_pytorch_does(scheme: Scheme) -> None:
    graph, module = two_layers()
    sample = torch.randn(3, WIDE)
    plan = Quantisation(scheme, layers_for(module, sample))
    assert quantised(graph, plan) == {"0.weight", "1.weight"}
    found = run(graph, sample.numpy())
    plain = module(sample).detach().numpy()
    names = {f"{i}.weight": module[i] for i in range(2)}
    with torch.no_grad(), rounded(names, plan.layers, scheme):
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


def test_a_plan_for_another_denoiser_is_refused() -> None:
    graph, _ = two_layers()
    plan = Quantisation(scheme_named("int8"), {"other.weight": Layer(-1, 1)})
    with pytest.raises(
        ExportError, match=r"has the layer 'other.weight', which the denoiser's loop"
    ):
        quantised(graph, plan)


def test_what_does_not_depend_on_the_latents_is_left_alone() -> None:
    graph, module = two_layers()
    graph.inputs[0].name = "prompt"  # of the prompt alone, so the prologue computes it once
    plan = Quantisation(scheme_named("int8"), layers_for(module, torch.randn(3, WIDE)))
    with pytest.raises(ExportError, match="which the denoiser's loop has not"):
        quantised(graph, plan)
