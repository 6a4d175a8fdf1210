"""Parity of every engine on every family, mixes of all actions included."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.parity_matrix import measure
from tests.pipelines import RANDOM

ENGINES = ("onnxruntime", "openvino")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["shapes-sd", "shapes-dit", *RANDOM])
def test_parity_holds_of_every_engine_on_every_family(name: str, tmp_path: Path) -> None:
    row = measure(name, tmp_path, ENGINES, steps=6, dtype="float32")
    assert row["failures"] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["shapes-dit", "three-levels", "sdxl", "flux-dev"])
def test_parity_holds_in_float16(name: str, tmp_path: Path) -> None:
    row = measure(name, tmp_path, ENGINES, steps=6, dtype="float16")
    assert row["failures"] == []


@pytest.mark.slow
def test_a_bfloat16_bundle_has_no_rung_of_onnx_graphs(tmp_path: Path) -> None:
    row = measure("learned-variance", tmp_path, ("openvino",), steps=4, dtype="bfloat16")
    assert row["failures"] == []
    assert row["notes"] == [
        "there is no rung of the ONNX graphs alone: ONNX Runtime has no bfloat16 kernels on the CPU"
    ]
    assert "onnxruntime on cpu" not in row
