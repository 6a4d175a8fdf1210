"""Memory of what a traced step computes."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.utils import _pytree as pytree

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import Node


def peak_bytes(program: ExportedProgram) -> int:
    """Most bytes of computed tensors that live at once while the operations run in order.

    A tensor lives until the last operation that reads it, an output until the end, and what may be a view
    takes no room of its own. Weights and inputs do not count.
    """
    nodes = list(program.graph.nodes)
    owner: dict[Node, Node] = {}
    last: dict[Node, int] = {}
    for place, node in enumerate(nodes):
        owner[node] = owner[node.all_input_nodes[0]] if _is_view(node) else node
        last[owner[node]] = place
        for read in node.all_input_nodes:
            last[owner[read]] = place
    ends: dict[int, list[Node]] = {}
    for node, place in last.items():
        ends.setdefault(place, []).append(node)
    living = most = 0
    for place, node in enumerate(nodes):
        living += _bytes(node) if owner[node] is node else 0
        most = max(most, living)
        living -= sum(map(_bytes, ends.get(place, ())))
    return most


def _is_view(node: Node) -> bool:
    target: Any = node.target
    of_one = node.op == "call_function" and bool(node.all_input_nodes)
    return of_one and (target is operator.getitem or bool(getattr(target, "is_view", False)))


def _bytes(node: Node) -> int:
    """Of what an operation returns."""
    if node.op != "call_function":
        return 0
    found = pytree.tree_leaves(node.meta.get("val"))
    return sum(t.numel() * t.element_size() for t in found if isinstance(t, Tensor))
