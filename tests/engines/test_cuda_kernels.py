"""Every node of a bundle has a kernel in ONNX Runtime's CUDA provider: what goes to the CPU is refused there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

from exporter.components import conditioner_graph
from exporter.exporting import export
from exporter.traced import conditioning
from search.core.subnet import Granularity
from search.methods.options import Options
from search.methods.registry import search
from search.model.opening import open_pipeline
from tests.mixes import random_mix

CHOSEN_BY = {"Where": 1}
"""The input whose type chooses the kernel; the first of all others."""
COMPARISONS = ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")


def kernels() -> dict[str, set[str]]:
    lines = (Path(__file__).parent / "onnxruntime_cuda_kernels.txt").read_text().splitlines()
    pairs = (line.split(":") for line in lines if not line.startswith("#"))
    return {name: set(types.split()) for name, types in pairs}


def without_kernel(model: onnx.ModelProto) -> Iterator[str]:
    """Operators and types of a model for which there is no kernel."""
    known, types = kernels(), {t.name: t.data_type for t in model.graph.initializer}
    types |= {each.name: each.type.tensor_type.elem_type for each in model.graph.input}
    for node in model.graph.node:
        if node.op_type == "Constant":
            types[node.output[0]] = node.attribute[0].t.data_type
            continue
        chosen = types[node.input[CHOSEN_BY.get(node.op_type, 0)]]
        for number, output in enumerate(node.output):
            types[output] = type_of_output(node, number, chosen)
        kind = onnx.helper.tensor_dtype_to_string(chosen).removeprefix("TensorProto.").lower()
        if kind not in known.get(node.op_type, ()):
            yield f"{node.op_type} of {kind}"


def type_of_output(node: onnx.NodeProto, number: int, chosen: int) -> int:
    """Of output `number`, where `chosen` is the type that chooses the kernel."""
    if node.op_type == "Cast":
        return next(each.i for each in node.attribute if each.name == "to")
    if node.op_type in COMPARISONS:
        return onnx.TensorProto.BOOL
    is_position = node.op_type in ("ArgMax", "Shape") or (node.op_type, number) == ("TopK", 1)
    return onnx.TensorProto.INT64 if is_position else chosen


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sdxl", "sd3"])
def test_the_pooled_text_of_clip_is_computed_on_the_gpu(
    pipelines: Callable[[str], Path], name: str
) -> None:
    opened = open_pipeline(pipelines(name), weights=False)
    subnet = search(opened, "full", Options(steps=2))
    prompts = opened.family.conditioner(opened, conditioning(opened, subnet, 1))
    model = ir.to_proto(conditioner_graph(prompts, "float32").model)
    operators = {node.op_type for node in model.graph.node}
    assert "ReduceMin" in operators
    assert "ArgMax" not in operators
    assert sorted(set(without_kernel(model))) == []


def test_an_operator_without_a_kernel_is_found() -> None:
    helper = onnx.helper
    ports = [
        helper.make_tensor_value_info(name, kind, shape)
        for name, kind, shape in (
            ("x", onnx.TensorProto.INT32, [1, 4]), ("y", onnx.TensorProto.INT64, [1, 1]),
        )
    ]  # fmt: skip
    node = helper.make_node("ArgMax", ["x"], ["y"], axis=1)
    graph = helper.make_graph([node], "graph", ports[:1], ports[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)])
    assert list(without_kernel(model)) == ["ArgMax of int32"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["shapes-sd", "shapes-dit", "two-levels", "lcm", "learned-variance", "sdxl", "sd3", "flux-dev",
     "flux-schnell", "pixart-alpha", "pixart-sigma", "aura-flow"],
)  # fmt: skip
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_every_node_of_a_bundle_has_a_kernel(
    pipelines: Callable[[str], Path], tmp_path: Path, name: str, dtype: str
) -> None:
    opened = open_pipeline(pipelines(name), weights=False)
    options = Options(steps=4, granularity=Granularity.BRANCH)
    subnet = random_mix(search(opened, "full", options), seed=5)
    bundle = export(pipelines(name), subnet, tmp_path / "bundle", dtype=dtype)
    for file in bundle.models:
        model = onnx.load(bundle.path / file, load_external_data=False)
        assert sorted(set(without_kernel(model))) == [], file
