"""Complex numbers in a trace: ONNX has no complex type."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor
from torch.utils import _pytree as pytree

from search.core.errors import SearchError

if TYPE_CHECKING:
    from torch.export import ExportedProgram


def without_complex(program: ExportedProgram) -> ExportedProgram:
    """The program, if it computes with real numbers alone.

    Raises:
        SearchError: it does not.
    """
    for node in program.graph.nodes:
        for leaf in pytree.tree_leaves(node.meta.get("val")):
            if isinstance(leaf, Tensor) and leaf.is_complex():
                msg = (
                    f"the denoiser computes with complex numbers ({node.name}), which ONNX does not have; "
                    "such pipelines are not supported"
                )
                raise SearchError(msg)
    return program
