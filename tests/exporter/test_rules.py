"""No rewrite changes a result: each rule on a graph that it simplifies, and on graphs next to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnxscript import rewriter

from exporter.graph import optimise
from exporter.rules import RULES

TYPES = {"float": np.float32, "double": np.float64, "float16": np.float16, "int64": np.int64}
AWKWARD = (0.0, -0.0, 1e-38, -1e-15, 1e-8, 1.0, 1 + 2**-23, 2049.0, 65519.996, np.inf, -np.inf)
"""Numbers that a small change shows on: signed zeros, tiny ones, halfway between two float16."""


def graph(body: str, inputs: str = "float[2,3,4] x", output: str = "float[a,b,c] y") -> ir.Model:
    text = f'<ir_version: 11, opset_import: ["": 23]> g ({inputs}) => ({output}) {{ {body} }}'
    model = onnx.parser.parse_model(text)
    onnx.checker.check_model(model)
    return ir.from_proto(onnx.shape_inference.infer_shapes(model))


def one(op: str, number: str, kind: str = "float", inputs: str = "") -> ir.Model:
    """`x op number`; a string in which `number` may have a shape: `[1,1] {0}`."""
    shape, value = number.split(" ", 1) if " " in number else ("", f"{{{number}}}")
    body = f"c = Constant <value = {kind}{shape} {value}> () y = {op} (x, c)"
    return graph(body, inputs or f"{kind}[2,3,4] x", f"{kind}[a,b,c] y")


def values(model: ir.Model) -> dict[str, NDArray[Any]]:
    found = {}
    for value in model.graph.inputs:
        shape = [int(dim) for dim in value.shape]
        numbers = np.resize(np.array(AWKWARD, np.float64), shape)
        kind = value.dtype.numpy()
        if np.issubdtype(kind, np.integer):
            numbers = np.resize(np.array([0, -1, 2**24 + 1, 2**31 + 3]), shape)
        with np.errstate(over="ignore"):
            found[value.name] = numbers.astype(kind)
    return found


def results(model: ir.Model) -> list[NDArray[Any]]:
    with np.errstate(all="ignore"):
        return list(ReferenceEvaluator(ir.to_proto(model)).run(None, values(model)))


def bits(arrays: list[NDArray[Any]]) -> list[tuple[Any, ...]]:
    return [(array.dtype, array.shape, array.tobytes()) for array in arrays]


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph if node.op_type not in ("Constant", "Identity")]


def reshaped(first: str, second: str, inputs: str = "float[2,3,4] x") -> Callable[[], ir.Model]:
    return lambda: graph(
        f"""a = Constant <value = int64[{first.count(",") + 1}] {{{first}}}> ()
        b = Constant <value = int64[{second.count(",") + 1}] {{{second}}}> ()
        z = Reshape (x, a) y = Reshape (z, b)""",
        inputs,
    )


def sliced(start: int, end: int, axis: int, step: int) -> Callable[[], ir.Model]:
    parts = zip("abcd", (start, end, axis, step), strict=True)
    constants = " ".join(f"{n} = Constant <value = int64[1] {{{v}}}> ()" for n, v in parts)
    return lambda: graph(f"{constants} y = Slice (x, a, b, c, d)")


def cast(first: str, second: str, source: str = "float16") -> Callable[[], ir.Model]:
    numbers = {"float": 1, "float16": 10, "double": 11, "int64": 7}
    return lambda: graph(
        f"z = Cast <to = {numbers[first]}> (x) y = Cast <to = {numbers[second]}> (z)",
        f"{source}[2,3,4] x",
        f"{second}[a,b,c] y",
    )


def unsqueezed(first: int, second: int) -> Callable[[], ir.Model]:
    return lambda: graph(
        f"""a = Constant <value = int64[1] {{{first}}}> () b = Constant <value = int64[1] {{{second}}}> ()
        z = Unsqueeze (x, a) y = Unsqueeze (z, b)""",
        "float[2,3] x",
        "float[a,b,c,d] y",
    )


def transposed(*orders: str) -> Callable[[], ir.Model]:
    names = ["x", *(f"z{i}" for i in range(1, len(orders))), "y"]
    return lambda: graph(
        " ".join(
            f"{names[i + 1]} = Transpose <perm = [{order}]> ({names[i]})"
            for i, order in enumerate(orders)
        )
    )


def expanded(shape: str) -> Callable[[], ir.Model]:
    return lambda: graph(
        f"s = Constant <value = int64[{shape.count(',') + 1}] {{{shape}}}> () y = Expand (x, s)",
        "float[2,1,4] x",
    )


SIMPLER: dict[str, tuple[list[Callable[[], ir.Model]], int]] = {
    "Add -0": (
        [
            lambda: one("Add", "-0.0"),
            lambda: one("Add", "0", "int64"),
            lambda: one("Add", "[1,1] {-0.0}"),
        ],
        0,
    ),
    "Sub 0": ([lambda: one("Sub", "0.0"), lambda: one("Sub", "[1] {0.0}")], 0),
    "Mul 1": ([lambda: one("Mul", "1.0"), lambda: one("Mul", "1", "int64")], 0),
    "Div 1": ([lambda: one("Div", "1.0")], 0),
    "CastOnce": ([cast("float", "float16")], 1),
    "CastIdentity": ([lambda: graph("y = Cast <to = 1> (x)")], 0),
    "ExpandIdentity": ([expanded("2,1,4")], 0),
    "TransposeIdentity": ([transposed("0, 1, 2")], 0),
    "TransposeTranspose": ([transposed("1, 2, 0", "1, 0, 2")], 1),
    "collapse_slice": ([sliced(0, 4, 2, 1), sliced(0, 9, -1, 1), sliced(0, 2**63 - 1, 1, 1)], 0),
    "ReshapeReshape": (
        [reshaped("6,4", "3,2,4"), reshaped("6,4", "0,2,2"), reshaped("24", "2,-1,3")],
        1,
    ),
    "UnsqueezeUnsqueeze": ([unsqueezed(0, 2), unsqueezed(2, 0), unsqueezed(1, 1)], 1),
}
"""Per rule, graphs that it simplifies, and to how many nodes."""
NEAR: list[Callable[[], ir.Model]] = [
    *(
        (lambda op=op, number=number, kind=kind: one(op, number, kind))
        for kind in ("float", "double")
        for op, numbers in {
            "Add": ("0.0", "1e-15", "-1e-15", "1e-8", "5e-8"),
            "Sub": ("-0.0", "1e-15", "1e-8"),
            "Mul": ("1.0000001", "0.9999999", "1.001", "-1.0"),
            "Div": ("1.0000001", "0.9999999", "0.999"),
        }.items()
        for number in numbers
    ),
    lambda: one("Add", "[1,1,1,1] {-0.0}", inputs="float[4] x"),
    lambda: one("Mul", "[1,1,1] {1.0}", inputs="float[4] x"),
    lambda: one("Mul", "[3,1] {1.0, 1.0, 1.0}", inputs="float[2,1,4] x"),
    cast("float", "float16", "double"),
    cast("float", "float16", "int64"),
    cast("float16", "float", "float"),
    cast("int64", "float", "float"),
    expanded("2,3,4"),
    expanded("5,2,1,4"),
    transposed("1, 0, 2"),
    transposed("1, 2, 0", "1, 2, 0", "1, 2, 0"),
    sliced(0, 3, 2, 1),
    sliced(0, -1, 2, 1),
    sliced(1, 4, 2, 1),
    sliced(0, 4, 2, 2),
    sliced(3, -9, 2, -1),
    reshaped("8,6", "0,2,-1", "float[4,6,2] x"),
]  # fmt: skip
"""Graphs that look like one of those and are not."""


def test_each_rule_has_its_graphs() -> None:
    assert [_name(rule) for rule in RULES] == list(SIMPLER)


def _name(rule: rewriter.RewriteRule) -> str:
    return "collapse_slice" if "redundant_slice" in str(rule) or rule.name is None else rule.name


@pytest.mark.parametrize("name", SIMPLER)
def test_a_rule_simplifies_and_changes_no_bit(name: str) -> None:
    rule = next(rule for rule in RULES if _name(rule) == name)
    makers, left = SIMPLER[name]
    for make in makers:
        model = make()
        before = bits(results(model))
        rewriter.rewrite(model, [rule])
        assert len(operators(model)) == left
        assert bits(results(model)) == before


@pytest.mark.parametrize("index", range(len(NEAR)))
def test_what_only_looks_like_it_keeps_every_bit(index: int) -> None:
    before = bits(results(NEAR[index]()))
    for model in (NEAR[index](), NEAR[index]()):
        rewriter.rewrite(model, RULES)
        assert bits(results(model)) == before


def test_constants_that_differ_in_one_bit_stay_two() -> None:
    """Equal initializers and equal nodes become one; zeros of two signs, or 0 and 1e-45, are not equal."""
    model = graph(
        """a = Constant <value_float = 0.0> () b = Constant <value_float = -0.0> ()
        c = Constant <value = float {1e-45}> () d = Mul (x, a) e = Mul (x, b) f = Mul (x, c)
        g = Reciprocal (d) h = Reciprocal (e) i = Reciprocal (f) y = Concat <axis = 0> (g, h, i)""",
        "float[2,3,4] x",
    )
    before = bits(results(model))
    optimise(model, ())
    assert bits(results(model)) == before


@pytest.mark.parametrize("number", ["1e-15", "0.0", "-0.0", "1e-45"])
def test_a_small_number_that_saves_a_division_stays(number: str) -> None:
    """As in a decoder that normalises by `x / (norm + 1e-15)`: a zero picture must not become NaN."""
    model = graph(
        f"""c = Constant <value = float {{{number}}}> () z = Abs (x) d = Add (z, c) y = Div (x, d)"""
    )
    before = bits(results(model))
    optimise(model, ())
    assert bits(results(model)) == before
