"""Every name of TensorRT that our code uses is one of TensorRT's, though it is not installed here."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from search.core.precision import ALL

ROOT = Path(__file__).parent.parent.parent
FILES = ("engines/plans.py", "engines/tensorrt.py")
OF_VARIABLES = {
    "builder": ("Builder",),
    "network": ("INetworkDefinition",),
    "parser": ("OnnxParser",),
    "layer": ("ILayer", "IAttentionBoundaryLayer"),
    "attention": ("IAttention",),
    "config": ("IBuilderConfig",),
    "cache": ("ITimingCache",),
    "runtime": ("Runtime",),
    "engine": ("ICudaEngine",),
    "context": ("IExecutionContext",),
    "refitter": ("Refitter",),
    "reader": ("OnnxParserRefitter",),
}
"""What these variables (and attributes) are, in our code."""
RTX_ONLY = {
    ("trt", "ComputeCapability"),
    ("config", "num_compute_capabilities"),
    ("config", "set_compute_capability"),
}
"""What TensorRT-RTX has beside the names of TensorRT."""

Use = tuple[str, str]
"""A module, class or variable, and the name that is asked of it."""


def known_names() -> dict[str, set[str]]:
    lines = (Path(__file__).parent / "tensorrt_11_4.txt").read_text().splitlines()
    pairs = (line.split(":") for line in lines if not line.startswith("#"))
    return {name: set(members.split()) for name, members in pairs}


def uses(source: str) -> Iterator[Use]:
    """Every `a.b` of the source, the underscore before the name of an attribute left out."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Attribute) or node.attr.startswith("__"):
            continue
        owner = node.value
        if isinstance(owner, ast.Attribute | ast.Name):
            name = owner.attr if isinstance(owner, ast.Attribute) else owner.id
            yield name.lstrip("_"), node.attr


def unknown(source: str) -> list[Use]:
    """The uses of names that TensorRT does not have."""
    names = known_names()
    members = {"trt": set(names), **{n: m for n, m in names.items() if n[0].isupper()}}
    for variable, classes in OF_VARIABLES.items():
        members[variable] = set().union(*(names[each] for each in classes))
    return [
        use
        for use in uses(source)
        if use[0] in members and use[1] not in members[use[0]] and use not in RTX_ONLY
    ]


@pytest.mark.parametrize("file", FILES)
def test_all_names_are_those_of_tensorrt(file: str) -> None:
    source = (ROOT / file).read_text()
    found = [use for use in uses(source) if use[0] == "trt"]
    assert len(found) >= 5, "it looks at something"
    assert unknown(source) == []


def test_all_types_of_numbers_are_those_of_tensorrt() -> None:
    assert {each.engines["tensorrt"] for each in ALL} <= known_names()["DataType"]


@pytest.mark.parametrize(
    ("line", "use"),
    [
        ("trt.BuilderFlag.FP16", ("BuilderFlag", "FP16")),
        ("self._trt.AlgorithmSelector()", ("trt", "AlgorithmSelector")),
        ("engine.create_execution_context_without_device_memory()",
         ("engine", "create_execution_context_without_device_memory")),
        ("self._context.execute_async_v2(b)", ("context", "execute_async_v2")),
        ("layer.attention.decomposeable = True", ("attention", "decomposeable")),
    ],
)  # fmt: skip
def test_a_name_that_is_gone_is_found(line: str, use: Use) -> None:
    assert unknown(line) == [use]


@pytest.mark.parametrize("library", ["tensorrt_rtx", "tensorrt"])
def test_the_installed_library_has_all_names(library: str) -> None:
    if library == "tensorrt":
        reason = (
            "tensorrt is for machines with a GPU; the names of 11.4 are checked above without it"
        )
        pytest.importorskip(library, exc_type=ImportError, reason=reason)
    trt = importlib.import_module(library)
    for file in FILES:
        for owner, name in uses((ROOT / file).read_text()):
            if (owner, name) in RTX_ONLY and library == "tensorrt":
                continue
            if owner == "trt":
                assert hasattr(trt, name)
            for each in OF_VARIABLES.get(owner, (owner,)):
                if hasattr(trt, each) and len(OF_VARIABLES.get(owner, ())) < 2:
                    assert hasattr(getattr(trt, each), name), (each, name)


def test_no_number_of_an_enumeration_is_used() -> None:
    """They moved between versions 10 and 11: members are named, and int() is for the one flag."""
    numbers = [
        ast.unparse(node)
        for file in FILES
        for node in ast.walk(ast.parse((ROOT / file).read_text()))
        if isinstance(node, ast.Call)
        and (getattr(node.func, "id", "") == "int" or getattr(node.func, "attr", "") == "value")
        and "trt." in ast.unparse(node)
    ]
    assert numbers == [
        "int(trt.__version__.split('.')[0])",
        "int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)",
    ]
