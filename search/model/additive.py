"""Which of a block's inputs its output is the sum of, read off a trace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection

    from torch.fx import Node

SUMS = frozenset({"add", "sub", "add_"})
"""Operations that are element by element the sum of their tensors."""
PASSES = frozenset(
    {
        "clone",
        "contiguous",
        "_to_copy",
        "to",
        "dropout",
        "clamp",
        "clip",
        "alias",
        "detach",
        "lift_fresh_copy",
    }
)
"""Operations that hand on their first tensor."""


class _Window(NamedTuple):
    """A range of a tensor along one dimension."""

    dim: int
    start: int
    length: int


def added_to(node: Node, inputs: Collection[Node]) -> frozenset[Node]:
    """Those of `inputs` that `node` is element by element a sum with.

    A transformer block adds attention and feed-forward to its input. One that works on two streams at
    once may join them, add to both and take them apart again.
    """
    return frozenset(_summands(node, inputs, None))


def _summands(node: Node, inputs: Collection[Node], window: _Window | None) -> set[Node]:
    """The same of a window of `node`."""
    if window is not None and node.meta["val"].shape[window.dim] == window.length:
        window = None
    if window is None and node in inputs:
        return {node}
    operation = _name(node)
    if operation in SUMS:
        parts = [
            each
            for each in node.all_input_nodes
            if each.meta["val"].shape == node.meta["val"].shape
        ]
        return {found for part in parts for found in _summands(part, inputs, window)}
    if operation in PASSES:
        return _summands(node.all_input_nodes[0], inputs, window)
    if operation == "slice" and window is None:
        return _of_slice(node, inputs)
    if operation == "getitem" and window is None:
        return _of_split(node, inputs)
    if operation == "cat" and window is not None:
        return _of_cat(node, inputs, window)
    return set()


def _of_slice(node: Node, inputs: Collection[Node]) -> set[Node]:
    source, dim, start, end, step = _filled(node.args, (None, 0, 0, None, 1))
    size = source.meta["val"].shape[dim]
    start, end = (_within(edge, size, else_) for edge, else_ in ((start, 0), (end, size)))
    if step != 1:
        return set()
    return _summands(source, inputs, _Window(dim % source.meta["val"].ndim, start, end - start))


def _of_split(node: Node, inputs: Collection[Node]) -> set[Node]:
    split, index = node.args
    if _name(split) not in ("split", "split_with_sizes", "chunk"):
        return set()
    source, _, dim = _filled(split.args, (None, None, 0))  # type: ignore[union-attr]
    dim = dim % source.meta["val"].ndim
    sizes = [part.shape[dim] for part in split.meta["val"]]  # type: ignore[union-attr]
    window = _Window(dim, sum(sizes[:index]), sizes[index])  # type: ignore[index]
    return _summands(source, inputs, window)


def _of_cat(node: Node, inputs: Collection[Node], window: _Window) -> set[Node]:
    parts, dim = _filled(node.args, (None, 0))
    if dim % node.meta["val"].ndim != window.dim:
        return set()
    start = 0
    for part in parts:
        length = part.meta["val"].shape[window.dim]
        if (start, length) == (window.start, window.length):
            return _summands(part, inputs, None)
        start += length
    return set()


def _name(node: Any) -> str:
    """Of an operation: `add` of `aten.add.Tensor`, `getitem`."""
    target = getattr(node, "target", None)
    name: str = getattr(target, "__name__", str(target))
    return name.split(".")[0]


def _filled(args: tuple[Any, ...], defaults: tuple[Any, ...]) -> tuple[Any, ...]:
    return (*args, *defaults[len(args) :])


def _within(edge: int | None, size: int, otherwise: int) -> int:
    """An end of a slice as a place in 0..size."""
    if edge is None:
        return otherwise
    return max(0, min(size, edge + size if edge < 0 else edge))
