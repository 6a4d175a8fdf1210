"""Complex numbers of a trace as pairs of real ones, since ONNX has no complex type."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch.export import ExportedProgram


def without_complex(program: ExportedProgram) -> ExportedProgram:
    """The same program without complex tensors."""
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor) and value.is_complex():
            raise NotImplementedError(node)
    return program
