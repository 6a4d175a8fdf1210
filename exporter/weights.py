"""The one weights file that all graphs of a bundle share."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import onnx_ir as ir
from onnx_ir import external_data

from exporter.bundle import WEIGHTS
from exporter.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_ALIGNMENT = 4096
_ALIGNED_FROM = 65536
_KEY = "stepcarve"
"""Where a tensor that belongs in the weights file holds what it is known by there."""

Index = dict[str, tuple[int, int]]
"""What a tensor is known by -> its offset and length in the weights file."""


def keep(value: ir.Value, parameter: str | None = None) -> None:
    """Let the tensor of an initializer be kept in the weights file.

    Args:
        value: the initializer, with its tensor.
        parameter: what it is known by there; None takes its content, which may be another in a graph
            for another shape though the name is the same.
    """
    tensor = value.const_value
    if tensor is None:
        msg = f"the initializer {value.name!r} has no value"
        raise ValueError(msg)
    tensor.meta[_KEY] = parameter or hashlib.sha256(tensor.tobytes()).hexdigest()


def write_weights(folder: Path, models: Iterable[ir.Model]) -> Index:
    """Stream the kept tensors of `models` into the weights file of `folder`, each once, one at a time."""
    tensors = {
        tensor.meta[_KEY]: tensor
        for model in models
        for value in model.graph.initializers.values()
        if (tensor := value.const_value) is not None and _KEY in tensor.meta
    }
    keys = sorted(tensors)  # so that the order does not depend on which graph reads a tensor first
    written = external_data.convert_tensors_to_external(
        [tensors[key] for key in keys],
        folder,
        WEIGHTS,
        alignment=_ALIGNMENT,
        align_threshold=_ALIGNED_FROM,
    )
    return {
        key: (tensor.offset or 0, tensor.length or 0)
        for key, tensor in zip(keys, written, strict=True)
    }


def refer(folder: Path, model: ir.Model, index: Index) -> None:
    """Make the kept tensors of `model` refer to the weights file instead of holding their data."""
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or _KEY not in tensor.meta:
            continue
        if value.dtype is None or value.shape is None:
            msg = f"the initializer {name!r} has no type or shape"
            raise ValueError(msg)
        if tensor.meta[_KEY] not in index:
            msg = (
                f"{WEIGHTS}, left by an interrupted export, lacks {name!r} of this one; it was "
                "removed, so export again"
            )
            raise ExportError(msg)
        offset, length = index[tensor.meta[_KEY]]
        value.const_value = ir.ExternalTensor(
            WEIGHTS,
            offset,
            length,
            value.dtype,
            shape=ir.Shape(value.shape),
            name=name,
            base_dir=folder,
        )
