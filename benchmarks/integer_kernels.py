"""Which kernels run a quantised step graph, and how fast: `python -m benchmarks.integer_kernels [PIPELINE...]`.

The full step graph of each pipeline as it is, with int8 layers and with int8 weights alone, on ONNX Runtime and
OpenVINO with one thread. Seconds are of the processor, the least of several calls in turn, so that other work on the
machine counts little.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchmarks.record import write
from benchmarks.rtx_plans import find
from benchmarks.rtx_quantised import planned, step_graph

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from engines.base import Session

PIPELINES = ("shapes-dit", "shapes-sd")
ENGINES = {"onnxruntime": None, "openvino": None, "openvino in bfloat16": "bfloat16"}
"""Row -> `--precision`; its first word is the engine."""
SCHEMES = ("", "int8", "int8-weights")
ROUNDS, STEPS = 7, 2
INTEGER, FLOAT = "integer", "floating point"
PRODUCTS = {
    "QLinearConv": INTEGER, "ConvInteger": INTEGER, "QLinearMatMul": INTEGER, "MatMulInteger": INTEGER,
    "MatMulIntegerToFloat": INTEGER, "QGemm": INTEGER,
    "Conv": FLOAT, "FusedConv": FLOAT, "MatMul": FLOAT, "FusedMatMul": FLOAT, "Gemm": FLOAT,
    "MatMulNBits": FLOAT,
}  # fmt: skip
"""ONNX Runtime's kernels that multiply, by what they multiply in; MatMulNBits has integer weights alone."""


def onnxruntime_kernels(graph: Path) -> Counter[str]:
    """What a profile of one call shows: kernels that multiply weights, by the kind of their numbers."""
    import numpy as np

    from engines.onnxruntime import open_session, session_options

    with tempfile.TemporaryDirectory() as folder:
        options = session_options(1)
        options.enable_profiling, options.profile_file_prefix = True, f"{folder}/profile"
        session = open_session(graph, "CPUExecutionProvider", options)
        session.run(None, {i.name: np.zeros(i.shape, np.float32) for i in session.get_inputs()})
        events = json.loads(Path(session.end_profiling()).read_text())
    kernels = [
        event["args"]["op_name"]
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith("kernel_time")
    ]
    return Counter(PRODUCTS[each] for each in kernels if each in PRODUCTS)


def openvino_kernels(graph: Path) -> Counter[str]:
    """Likewise, as OpenVINO describes what it compiled: by the type in which a layer's input arrives.

    `runtimePrecision` is that of the weights where these alone are integers.
    """
    import openvino

    from engines.base import DEFAULTS
    from engines.openvino import settings_of

    model = openvino.Core().compile_model(graph, "CPU", settings_of(DEFAULTS, "f32"))
    found = Counter[str]()
    for node in model.get_runtime_model().get_ops():
        if _told(node).get("layerType") in ("Convolution", "FullyConnected", "MatMul"):
            taken = node.input_value(0)
            types = _told(taken.get_node())["outputPrecisions"].split(",")
            arrives = types[min(taken.get_index(), len(types) - 1)]
            found[INTEGER if arrives in ("i8", "u8") else FLOAT] += 1
    return found


def _told(node: Any) -> dict[str, str]:
    """What OpenVINO says of a node that it compiled."""
    return {key: str(value.value) for key, value in node.get_rt_info().items()}


KERNELS: Mapping[str, Callable[[Path], Counter[str]]] = {
    "onnxruntime": onnxruntime_kernels,
    "openvino": openvino_kernels,
}


def caller(session: Session) -> Callable[[], None]:
    """Calls a graph on numbers drawn once."""
    import numpy as np

    drawn = np.random.default_rng(0)
    inputs = {
        name: np.asarray(drawn.standard_normal(shape)).astype(dtype)
        for name, (shape, dtype) in session.inputs.items()
    }
    outputs = {name: np.zeros(*form) for name, form in session.outputs.items()}
    run = session.bind(inputs, outputs)

    def call(_buffers: object = (inputs, outputs)) -> None:  # an engine does not keep them alive
        run()

    return call


def least_seconds(calls: Mapping[str, Callable[[], None]]) -> dict[str, float]:
    """Of the processor, per call, taken in turn."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS + 1):
        for name, call in calls.items():
            began = time.process_time()
            call()
            found[name].append(time.process_time() - began)
    return {name: round(min(seconds[1:]), 5) for name, seconds in found.items()}


def measure(name: str, folder: Path) -> dict[str, Any]:
    """All rows of a pipeline."""
    from engines.base import EngineOptions, make_engine
    from search.core.quantisation import Quantisation, scheme_named
    from search.methods.options import Options
    from search.methods.registry import search
    from search.model.opening import open_for, open_pipeline

    path = find(name, folder)
    subnet = search(open_pipeline(path, weights=False), "full", Options(steps=STEPS))
    pipeline = open_for(subnet, path, weights=True)
    rows: dict[str, Any] = {}
    calls: dict[str, Callable[[], None]] = {}
    for chosen in SCHEMES:
        plan = None
        if chosen:
            scheme = scheme_named(chosen)
            weights_alone = Quantisation.of_weights(scheme)
            plan = planned(pipeline, subnet, chosen) if scheme.inputs else weights_alone
        label = chosen or "float32"
        graph = step_graph(path, subnet, plan, folder / f"{name}-{label}", "float32")
        for row, precision in ENGINES.items():
            engine = row.split()[0]
            made = make_engine(engine, "cpu", EngineOptions(threads=1, precision=precision))
            key = f"{label}, {row}"
            calls[key] = caller(made.load(graph))
            rows[key] = {"products": dict(KERNELS[engine](graph))} if precision is None else {}
            rows[key]["weights_bytes"] = (graph.parent / "weights.bin").stat().st_size
    for key, seconds in least_seconds(calls).items():
        whole = rows[f"float32, {key.split(', ')[1].split()[0]}"]
        rows[key]["processor_seconds"] = seconds
        rows[key]["times_faster"] = round(whole["processor_seconds"] / seconds, 2)
    return rows


@click.command()
@click.argument("names", nargs=-1)
def main(names: tuple[str, ...]) -> None:
    """Measure the pipelines NAMES, and write the record."""
    results = dict[str, Any]()
    for name in names or PIPELINES:
        with tempfile.TemporaryDirectory(prefix="stepcarve-") as folder:
            results[name] = measure(name, Path(folder))
        for key, row in results[name].items():
            click.echo(f"{name}, {key}: {row}")
        write("integer-kernels", {"rounds": ROUNDS, "pipelines": results})


if __name__ == "__main__":
    main()
