"""The types of numbers in tensors: what each library calls them, and what a denoiser may compute in.

No framework is imported: the names are resolved by whoever has the library.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np


@dataclass(frozen=True)
class Precision:
    """One type of number.

    Attributes:
        name: as on the command line and in manifests.
        bytes: of one number.
        torch: its name in torch.
        onnx: its name in ONNX, as of `TensorProto` and `onnx_ir.DataType`.
        numpy: its name in numpy or ml_dtypes.
        engines: its name per engine; an engine that is left out cannot take it.
        hint: what OpenVINO calls a processor's ability to compute in it; empty: not available with `--precision`.
        floor: the largest relative error of one denoiser call in it that is not noise: about half of
            its digits. 0: no denoiser computes in it; it is a type of ids, masks or stored weights.
        wider: the precision with more range or digits to export in if `floor` is exceeded; empty: none.
        on_cpu: whether ONNX Runtime has kernels for it on the CPU.
        accelerate: what accelerate calls mixed precision in it; empty: a denoiser is not trained in it.
    """

    name: str
    bytes: int
    torch: str
    onnx: str
    numpy: str
    engines: Mapping[str, str] = field(default_factory=dict)
    hint: str = ""
    floor: float = 0.0
    wider: str = ""
    on_cpu: bool = True
    accelerate: str = ""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of numpy arrays."""
        import ml_dtypes
        import numpy as np

        return np.dtype(getattr(ml_dtypes, self.numpy, self.numpy))


ALL = (
    Precision(
        name="float32",
        bytes=4,
        torch="float32",
        onnx="FLOAT",
        numpy="float32",
        engines={"onnxruntime": "tensor(float)", "openvino": "f32", "tensorrt": "FLOAT"},
        hint="FP32",
        floor=2.0**-12,
        accelerate="no",
    ),
    Precision(
        name="float16",
        bytes=2,
        torch="float16",
        onnx="FLOAT16",
        numpy="float16",
        engines={"onnxruntime": "tensor(float16)", "openvino": "f16", "tensorrt": "HALF"},
        hint="FP16",
        floor=2.0**-5,
        wider="bfloat16",
        accelerate="fp16",
    ),
    Precision(
        name="bfloat16",
        bytes=2,
        torch="bfloat16",
        onnx="BFLOAT16",
        numpy="bfloat16",
        engines={"onnxruntime": "tensor(bfloat16)", "openvino": "bf16", "tensorrt": "BF16"},
        hint="BF16",
        floor=2.0**-4,
        wider="float32",
        on_cpu=False,
        accelerate="bf16",
    ),
    Precision(
        name="float8",
        bytes=1,
        torch="float8_e4m3fn",
        onnx="FLOAT8E4M3FN",
        numpy="float8_e4m3fn",
        engines={"onnxruntime": "tensor(float8e4m3fn)", "openvino": "f8e4m3", "tensorrt": "FP8"},
        on_cpu=False,
    ),
    Precision(
        name="int8",
        bytes=1,
        torch="int8",
        onnx="INT8",
        numpy="int8",
        engines={"onnxruntime": "tensor(int8)", "openvino": "i8", "tensorrt": "INT8"},
    ),
    Precision(
        name="int4",
        bytes=1,
        torch="int4",
        onnx="INT4",
        numpy="int4",
        engines={"onnxruntime": "tensor(int4)", "openvino": "i4", "tensorrt": "INT4"},
    ),
    Precision(
        name="uint8",
        bytes=1,
        torch="uint8",
        onnx="UINT8",
        numpy="uint8",
        engines={"onnxruntime": "tensor(uint8)", "openvino": "u8", "tensorrt": "UINT8"},
    ),
    Precision(
        name="int32",
        bytes=4,
        torch="int32",
        onnx="INT32",
        numpy="int32",
        engines={"onnxruntime": "tensor(int32)", "openvino": "i32", "tensorrt": "INT32"},
    ),
    Precision(
        name="int64",
        bytes=8,
        torch="int64",
        onnx="INT64",
        numpy="int64",
        engines={"onnxruntime": "tensor(int64)", "openvino": "i64", "tensorrt": "INT64"},
    ),
    Precision(
        name="bool",
        bytes=1,
        torch="bool",
        onnx="BOOL",
        numpy="bool",
        engines={"onnxruntime": "tensor(bool)", "openvino": "boolean", "tensorrt": "BOOL"},
    ),
)
"""A new one is one record here."""


def denoiser_precisions() -> tuple[Precision, ...]:
    """Those that a denoiser can be exported in."""
    return tuple(each for each in ALL if each.floor)


def precision_named(name: str) -> Precision:
    """The one called `name`; a `KeyError` if there is none."""
    return _find("name", name)


def of_numpy(dtype: np.dtype[Any]) -> Precision:
    """The one that numpy calls so; a `KeyError` if there is none."""
    return _find("numpy", dtype.name)


def of_torch(name: str) -> Precision:
    """The one that torch calls so, as "bfloat16"; a `KeyError` if there is none."""
    return _find("torch", name)


def of_engine(engine: str, name: str) -> Precision:
    """The one that `engine` calls `name`; a `KeyError` if there is none."""
    for each in ALL:
        if each.engines.get(engine) == name:
            return each
    raise KeyError(name)


def is_own(dtype: np.dtype[Any]) -> bool:
    """Whether numpy itself has the type, and not ml_dtypes: other libraries take only such arrays."""
    return dtype.isbuiltin == 1


def _find(attribute: str, name: str) -> Precision:
    for each in ALL:
        if getattr(each, attribute) == name:
            return each
    raise KeyError(name)
