"""TensorRT-RTX for real: it builds plans on a machine without a GPU, each in a child process."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from engines.base import EngineOptions, make_engine
from engines.errors import EngineError
from exporter.carve import carve
from exporter.exporting import export
from exporter.traced import trace_denoiser
from exporter.weights import refer, write_weights
from search.core.program import plan_program
from search.core.subnet import Granularity
from search.methods.options import Options
from search.methods.registry import search
from search.model.opening import open_pipeline
from tests.mixes import random_mix

ADA = EngineOptions(compute_capability="8.9")
BUILD = """
import sys
from pathlib import Path
from engines.base import EngineOptions, make_engine
from engines.errors import EngineError

engine = make_engine("tensorrt-rtx", "cpu", EngineOptions(compute_capability="8.9"))
try:
    for graph in map(Path, sys.argv[1:]):
        report = lambda text, share: print(text, share, flush=True)
        engine.build(graph, graph.with_suffix(engine.suffix), report)
except EngineError as error:
    sys.exit(str(error))
"""


def child(graphs: Sequence[Path]) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", BUILD, *map(str, graphs)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def build(graphs: Sequence[Path]) -> list[int]:
    """Bytes of the plan of each graph."""
    process = child(graphs)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    return [graph.with_suffix(".plan").stat().st_size for graph in graphs]


def save(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: dict[str, list[int]],
    weights: dict[str, np.ndarray] | None = None,
    kind: int = TensorProto.FLOAT,
) -> Path:
    """A graph of `nodes` whose output is `y`; the weights lie in a file beside it."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info("y", kind, None)],
        [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)])
    model = onnx.shape_inference.infer_shapes(model)
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def linear(path: Path, size: int) -> Path:
    weight = np.random.default_rng(0).normal(size=(size, size)).astype("f4")
    return save(
        path, [helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": [4, size]}, {"w": weight}
    )


def test_a_plan_holds_the_weights_that_lie_beside_the_graph(tmp_path: Path) -> None:
    (size,) = build([linear(tmp_path / "graph.onnx", 512)])
    assert size > 512 * 512 * 4


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16])
@pytest.mark.parametrize("width", [64, 12])
def test_attention_of_any_width_and_type_builds(tmp_path: Path, width: int, kind: int) -> None:
    shapes = {name: [1, 2, 16, width] for name in "qkv"}
    nodes = [helper.make_node("Attention", ["q", "k", "v"], ["y"])]
    assert build([save(tmp_path / "graph.onnx", nodes, shapes, kind=kind)])[0] > 0


def test_what_the_library_does_not_take_is_one_sentence_and_leaves_no_plan(tmp_path: Path) -> None:
    nodes = [helper.make_node("Unknown", ["x"], ["y"], domain="somewhere")]
    path = tmp_path / "graph.onnx"
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("somewhere", 1)]), path)
    process = child([path])
    _, errors = process.communicate()
    assert process.returncode == 1
    assert "cannot build" in errors.splitlines()[-1]
    assert "graph.onnx" in errors.splitlines()[-1]
    assert not path.with_suffix(".plan").exists()


def test_ctrl_c_ends_a_build_and_leaves_no_plan(tmp_path: Path) -> None:
    size = 64
    weights = {
        f"w{i}": np.random.default_rng(i).normal(size=(size, size, 3, 3)).astype("f4")
        for i in range(60)
    }
    nodes = [
        node
        for i in range(60)
        for node in (
            helper.make_node("Conv", [f"x{i}" if i else "x", f"w{i}"], [f"c{i}"], pads=[1] * 4),
            helper.make_node(
                "Softmax", [f"c{i}"], [f"x{i + 1}" if i < 59 else "y"], axis=i % 3 + 1
            ),
        )
    ]
    path = save(tmp_path / "graph.onnx", nodes, {"x": [1, size, 16 + 1, 16]}, weights)
    process = child([path])
    assert process.stdout is not None
    process.stdout.readline()
    began = time.perf_counter()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert errors.splitlines()[-1] == "KeyboardInterrupt", errors
    assert time.perf_counter() - began < 30
    assert not path.with_suffix(".plan").exists()


def test_the_kind_of_gpu_must_be_said_and_known() -> None:
    with pytest.raises(EngineError, match="builds for one kind of GPU; give --compute-capability"):
        make_engine("tensorrt-rtx", "cpu").key()
    words = r"does not build for compute capability '9\.0'; choose one of 7\.5, 8\.0, .*8\.9, 12\.0"
    with pytest.raises(EngineError, match=words):
        make_engine("tensorrt-rtx", "cpu", EngineOptions(compute_capability="9.0"))


def test_the_key_names_the_kind_of_gpu_and_not_the_machine() -> None:
    keys = [
        make_engine("tensorrt-rtx", "cpu", EngineOptions(compute_capability=each)).key()
        for each in ("8.9", "12.0")
    ]
    assert keys[0] != keys[1]
    assert set(keys[0]) == {"library", "compute_capability", "workspace"}


def test_a_plan_does_not_run_on_the_cpu(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="runs on an RTX GPU; give --device cuda"):
        make_engine("tensorrt-rtx", "cpu", ADA).load(tmp_path / "graph.onnx")


def test_an_option_of_tensorrt_alone_is_refused() -> None:
    """Plans without weights cannot be built where there is no GPU."""
    with pytest.raises(EngineError, match="tensorrt-rtx on cpu does not take --strip-weights"):
        make_engine("tensorrt-rtx", "cpu", EngineOptions(strip_weights=True))


@pytest.mark.slow
def test_step_graphs_of_a_float16_unet_build(
    pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    """Without what stands around the denoiser, which takes longer to export than these to build."""
    opened = open_pipeline(pipelines("two-levels"), weights=False)
    subnet = search(opened, "deepcache", Options(steps=4, interval=2))
    master = trace_denoiser(opened, subnet, frozenset(), 1, "float16")
    refer(tmp_path, master.model, write_weights(tmp_path, [master.model]))
    signatures = plan_program(subnet, 1).signatures
    graphs = [tmp_path / f"step_{number}.onnx" for number in range(len(signatures))]
    for graph, signature in zip(graphs, signatures, strict=True):
        ir.save(carve(master, signature, graph.stem), graph)
    full, shallow = build(graphs)
    assert 0 < shallow < full / 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "learned-variance",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in (
                "shapes-sd", "shapes-dit", "sdxl", "sd3", "flux-dev", "flux-schnell",
                "pixart-alpha", "pixart-sigma", "aura-flow", "lcm", "two-levels",
            )
        ),
    ],
)  # fmt: skip
def test_every_graph_of_a_float16_bundle_builds(
    pipelines: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    opened = open_pipeline(pipelines(name), weights=False)
    options = Options(steps=4, granularity=Granularity.BRANCH)
    subnet = random_mix(search(opened, "full", options), seed=5)
    bundle = export(pipelines(name), subnet, tmp_path / "bundle", dtype="float16")
    assert min(build([bundle.path / file for file in bundle.models])) > 0
