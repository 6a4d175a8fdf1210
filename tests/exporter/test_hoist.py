"""Loop invariants of hand-written denoisers: what leaves the loop, and that nothing changes."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from exporter.graph import BOUNDARY, DOMAIN
from exporter.hoist import hoist
from exporter.prologue import make_prologue
from exporter.trace import Master
from tests.toys import chain

HEAD = '<ir_version: 10, opset_import: ["" : 23, "stepcarve" : 1]>'
TAKES = (
    "float[2, 6] sample, float timestep, float[2, 6] states, float[2, 1] mask, float[2, 3, 6] text"
)
CONSTANTS = {
    "two": np.array([2], np.int64),
    "wide": np.array([2, 6], np.int64),
    "folded": np.array([2, 3, 2], np.int64),
    "axis": np.array([1], np.int64),
    "freqs": np.linspace(0, 1, 6, dtype=np.float32)[None],
    "weight": np.linspace(-1, 1, 36, dtype=np.float32).reshape(6, 6),
}
CLOCK = """
    ts = Expand(timestep, two)
    column = Unsqueeze(ts, axis)
    angles = Mul(column, freqs)
    time = Cos(angles)
"""
TIMESTEPS = (901.0, 401.5, 1.0)


def master_of(body: str) -> Master:
    """A denoiser `(sample, timestep, states, mask, text) -> noise`, hoisted."""
    model = onnx.parser.parse_model(f"{HEAD} g ({TAKES}) => (noise) {{ {body} }}")
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(array, name) for name, array in CONSTANTS.items()
    )
    traced = ir.from_proto(onnx.shape_inference.infer_shapes(model))
    invariants = hoist(traced.graph)
    return Master(
        model=traced,
        inputs={value.name: value for value in traced.graph.inputs},
        invariants=invariants,
        predictions=(traced.graph.outputs[0],),
        ports=(),
        bases={},
        topology=chain(),
        layout=None,
    )


def step_of(master: Master) -> ir.Model:
    """What is left in the loop."""
    graph = ir.convenience.extract(
        master.model.graph, list(master.inputs.values()), list(master.predictions)
    )
    for value in [v for v in graph.inputs if not v.uses()]:
        graph.inputs.remove(value)
    return ir.Model(graph, ir_version=10)


def takes(model: ir.Model) -> set[str]:
    return {value.name for value in model.graph.inputs}


def operations(model: ir.Model) -> list[str]:
    return sorted(node.op_type for node in model.graph)


BODIES = {
    "prompt": "k = MatMul(states, weight) noise = Add(sample, k)",
    "timestep": CLOCK + "t = MatMul(time, weight) noise = Add(sample, t)",
    "the timestep itself": "noise = Add(sample, timestep)",
    "both": CLOCK + "sum = Add(time, states) e = Gemm(sum, weight) noise = Add(sample, e)",
    "both, folded": CLOCK
    + """
        sum = Add(time, states)
        parts = Reshape(sum, folded)
        back = Reshape(parts, wide)
        noise = Mul(sample, back)
    """,
    "both, enlarged": CLOCK
    + """
        t = Unsqueeze(time, axis)
        m = Mul(text, t)
        s = Unsqueeze(sample, axis)
        p = Mul(m, s)
        noise = ReduceSum<keepdims=0>(p, axis)
    """,
    "repeated": "m = Exp(mask) e = Expand(m, wide) noise = Mul(sample, e)",
    "all at once": CLOCK
    + """
        k = MatMul(states, weight)
        sum = Add(time, k)
        a = Add(sample, sum)
        b = Mul(a, time)
        noise = Sub(b, k)
    """,
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_prologue_and_step_give_what_the_denoiser_gives(body: str) -> None:
    master = master_of(body)
    step, random = step_of(master), np.random.default_rng(0)
    prologue = make_prologue(master, takes(step), TIMESTEPS)
    assert prologue is not None
    given = {
        "sample": random.standard_normal((2, 6)).astype(np.float32),
        "states": random.standard_normal((2, 6)).astype(np.float32),
        "mask": random.standard_normal((2, 1)).astype(np.float32),
        "text": random.standard_normal((2, 3, 6)).astype(np.float32),
    }
    whole = onnx.parser.parse_model(f"{HEAD} g ({TAKES}) => (noise) {{ {body} }}")
    whole.graph.initializer.extend(
        onnx.numpy_helper.from_array(array, name) for name, array in CONSTANTS.items()
    )
    made = ReferenceEvaluator(ir.to_proto(prologue.model)).run(
        None, {n: v for n, v in given.items() if n in takes(prologue.model)}
    )
    before = {v.name: each for v, each in zip(prologue.model.graph.outputs, made, strict=True)}
    for row, timestep in enumerate(TIMESTEPS):
        clock = {"timestep": np.array(timestep, np.float32)}
        rows = {n: v[row] if n in prologue.rows else v for n, v in before.items()}
        fed = {n: v for n, v in {**given, **rows}.items() if n in takes(step)}
        found = ReferenceEvaluator(ir.to_proto(step)).run(None, fed)[0]
        expected = ReferenceEvaluator(whole).run(None, {**given, **clock})[0]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "inputs", "left"),
    [
        ("prompt", {"sample", "prompt/k"}, ["Add"]),
        ("timestep", {"sample", "timestep/t"}, ["Add"]),
        ("the timestep itself", {"sample", "timestep/timestep"}, ["Add"]),
        ("both", {"sample", "timestep/e"}, ["Add"]),
        ("both, folded", {"sample", "timestep/back"}, ["Mul"]),
        (
            "both, enlarged",
            {"sample", "timestep/t", "text"},
            ["Mul", "Mul", "ReduceSum", "Unsqueeze"],
        ),
        ("repeated", {"sample", "prompt/m"}, ["Expand", "Mul"]),
    ],
)
def test_what_is_left_depends_on_the_latents(name: str, inputs: set[str], left: list[str]) -> None:
    step = step_of(master_of(BODIES[name]))
    assert takes(step) == inputs
    assert operations(step) == left


def test_nothing_behind_a_block_boundary_leaves_the_loop() -> None:
    body = (
        f"k = MatMul(states, weight) b = {DOMAIN}.{BOUNDARY}(k) e = Exp(b) noise = Add(sample, e)"
    )
    step = step_of(master_of(body))
    assert takes(step) == {"sample", "prompt/k"}
    assert operations(step) == ["Add", BOUNDARY, "Exp"]


def test_what_no_step_reads_is_not_computed() -> None:
    master = master_of(CLOCK + "k = MatMul(states, weight) a = Add(sample, k) noise = Mul(a, time)")
    prologue = make_prologue(master, {"timestep/time"}, TIMESTEPS)
    assert prologue is not None
    assert takes(prologue.model) == set()
    assert operations(prologue.model) == ["Identity"]
    assert prologue.rows == ("timestep/time",)
    assert [name for name in prologue.model.graph.initializers if name.startswith("table/")] == [
        "table/time"
    ]
    assert make_prologue(master, {"sample"}, TIMESTEPS) is None
