"""A type of number is one record: what computes, stores and compares in it follows."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import openvino
import pytest
import torch

from engines.cuda import TorchBuffers
from exporter.bundle import require_dtype
from exporter.errors import ExportError
from search.core import precision
from search.core.precision import ALL, Precision, denoiser_precisions, of_engine, precision_named


@pytest.mark.parametrize("each", ALL, ids=lambda each: each.name)
def test_each_library_has_what_a_record_names(each: Precision) -> None:
    assert each.dtype.itemsize == each.bytes
    assert getattr(torch, each.torch).itemsize == each.bytes
    kind = getattr(onnx.TensorProto, each.onnx)
    assert onnx.helper.tensor_dtype_to_np_dtype(kind) == each.dtype
    names = {
        value.get_type_name()
        for value in vars(openvino.Type).values()
        if isinstance(value, openvino.Type)
    }
    assert each.engines["openvino"] in names
    assert all(of_engine(engine, name) is each for engine, name in each.engines.items())
    assert precision_named(each.name) is each


def test_denoisers_compute_in_floating_point_numbers() -> None:
    assert [each.name for each in denoiser_precisions()] == ["float32", "float16", "bfloat16"]
    for each in denoiser_precisions():
        digits = float(ml_dtypes.finfo(each.dtype).eps)
        assert digits < each.floor <= digits**0.5, "about half of the digits"


def test_a_wider_one_has_more_range_or_digits() -> None:
    for each in denoiser_precisions():
        if not each.wider:
            assert each.name == "float32", "the widest"
            continue
        mine, theirs = (ml_dtypes.finfo(p.dtype) for p in (each, precision_named(each.wider)))
        assert float(theirs.max) > float(mine.max) or float(theirs.eps) < float(mine.eps)


def test_a_new_one_is_one_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused before, and then exported in, kept in buffers and known to engines."""
    with pytest.raises(ExportError, match="unknown dtype 'float8-wide'; choose one of float32"):
        require_dtype("float8-wide")
    new = Precision(
        name="float8-wide",
        bytes=1,
        torch="float8_e5m2",
        onnx="FLOAT8E5M2",
        numpy="float8_e5m2",
        engines={"onnxruntime": "tensor(float8e5m2)"},
        floor=2.0**-1,
    )
    monkeypatch.setattr(precision, "ALL", (*ALL, new))
    require_dtype("float8-wide")
    assert of_engine("onnxruntime", "tensor(float8e5m2)") is new
    buffers = TorchBuffers("cpu")
    buffer = buffers.zeros((3,), new.dtype)
    assert buffer.dtype is torch.float8_e5m2
    value = np.array([1, -2, 0.5]).astype(new.dtype)
    buffers.write(buffer, value)
    np.testing.assert_array_equal(buffers.host(buffer), value)


def test_a_type_that_nobody_knows_is_no_type() -> None:
    for find in (precision_named, precision.of_torch, lambda name: of_engine("openvino", name)):
        with pytest.raises(KeyError):
            find("float7")
