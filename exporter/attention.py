"""Attention over tensors that are not 4-D, as ONNX has it: `[B, H, L, D]`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch.export import ExportedProgram
    from torch.fx import Graph, Node

_ATTENTION = torch.ops.aten.scaled_dot_product_attention.default
_RANK = 4


def with_heads(program: ExportedProgram) -> None:
    """Give each attention over `[..., L, D]` a dimension of one head, in place."""
    for node in list(program.graph.nodes):
        if node.target is _ATTENTION and node.args[0].meta["val"].ndim < _RANK:
            _widen(program.graph, node)
    program.graph_module.recompile()


def _widen(graph: Graph, node: Node) -> None:
    """The same attention between views of its arguments and its result."""
    value = node.meta["val"]
    with graph.inserting_before(node):
        wide = [
            _reshaped(graph, arg, _wide(arg.meta["val"].shape))
            if isinstance(arg, torch.fx.Node) and (place < len("qkv") or arg.meta["val"].ndim > 2)
            else arg
            for place, arg in enumerate(node.args)
        ]
    node.args = tuple(wide)
    node.meta["val"] = value.reshape(_wide(value.shape))
    with graph.inserting_after(node):
        narrow = _reshaped(graph, node, value.shape)
    node.replace_all_uses_with(narrow, delete_user_cb=lambda user: user is not narrow)


def _wide(shape: Sequence[int]) -> tuple[int, ...]:
    """With dimensions of 1 before the last two: `[B, 1, L, D]` of `[B, L, D]`."""
    *batch, length, width = shape
    return (*batch, *[1] * (_RANK - 2 - len(batch)), length, width)


def _reshaped(graph: Graph, node: Node, shape: Sequence[int]) -> Node:
    made = graph.call_function(torch.ops.aten.reshape.default, (node, list(shape)))
    made.meta = {**node.meta, "val": node.meta["val"].reshape(tuple(shape))}
    return made
