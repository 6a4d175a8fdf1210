"""The one weights file that all graphs of a bundle share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir
from onnx_ir import external_data

from exporter.bundle import WEIGHTS

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_ALIGNMENT = 4096
_ALIGNED_FROM = 65536

Index = dict[str, tuple[int, int]]
"""Tensor name -> offset and length in the weights file."""


def write_weights(folder: Path, values: list[ir.Value]) -> Index:
    """Stream the tensors of `values` into the weights file of `folder`, one at a time."""
    tensors = [value.const_value for value in values if value.const_value is not None]
    written = external_data.convert_tensors_to_external(
        tensors,
        folder,
        WEIGHTS,
        alignment=_ALIGNMENT,
        align_threshold=_ALIGNED_FROM,
    )
    return {
        value.name or "": (tensor.offset or 0, tensor.length or 0)
        for value, tensor in zip(values, written, strict=True)
    }


def refer(folder: Path, values: Iterable[ir.Value], index: Index) -> None:
    """Make those of `values` that are in the weights file refer to it instead of holding their data."""
    for value in values:
        name = value.name or ""
        if name not in index:
            continue
        if value.dtype is None or value.shape is None:
            msg = f"the initializer {name!r} has no type or shape"
            raise ValueError(msg)
        offset, length = index[name]
        value.const_value = ir.ExternalTensor(
            WEIGHTS,
            offset,
            length,
            value.dtype,
            shape=ir.Shape(value.shape),
            name=name,
            base_dir=folder,
        )
