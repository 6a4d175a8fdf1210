"""Loop invariants: values that do not depend on the latents, and so need not be in a step graph."""

from __future__ import annotations

import enum
import math
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING

import onnx_ir as ir

from exporter.graph import DOMAIN
from exporter.rows import acts_on_rows, shape_of
from search.core.names import SAMPLE, TIMESTEP

if TYPE_CHECKING:
    from collections.abc import Callable


class Varies(enum.Flag):
    """What a value changes with; one that is computed from weights alone changes with nothing.

    PROMPT stands for all conditions, the guidance scale among them. LOOP is everything that has to stay
    inside: the latents, and block boundaries, which may hold an earlier step's value.
    """

    PROMPT = enum.auto()
    TIMESTEP = enum.auto()
    LOOP = enum.auto()


INSIDE = {SAMPLE: Varies.LOOP, TIMESTEP: Varies.TIMESTEP}
"""The body's inputs that change within a run."""
BOTH = Varies.PROMPT | Varies.TIMESTEP
_MOVES = frozenset(
    {"Cast", "Expand", "Identity", "Reshape", "Squeeze", "Tile", "Transpose", "Unsqueeze"}
)
"""Operations that hand on what they are given, at most repeated."""


def variation(graph: ir.Graph) -> dict[ir.Value, Varies]:
    """What every value of a sorted graph of the denoiser changes with.

    What depends on prompt and timestep is an invariant only while all operations work row by row, so
    that the prologue can do all timesteps at once; from there on it is LOOP.
    """
    found = dict.fromkeys(graph.initializers.values(), Varies(0))
    found |= {value: INSIDE.get(value.name or "", Varies.PROMPT) for value in graph.inputs}
    for node in graph:
        inputs = [value for value in node.inputs if value is not None]
        kind = reduce(or_, (found[value] for value in inputs), Varies(0))
        varying = [value for value in inputs if found[value]]
        stays = node.domain == DOMAIN or (kind == BOTH and not acts_on_rows(node, varying))
        kind = Varies.LOOP if stays or Varies.LOOP in kind else kind
        found.update(dict.fromkeys(node.outputs, kind))
    return found


def hoist(graph: ir.Graph) -> dict[str, ir.Value]:
    """Let what stays in the loop read its invariants from new inputs of `graph`, in place.

    Returns:
        Per new input, the invariant that it stands for, which is still computed in `graph`.
    """
    graph.sort()
    varies = variation(graph)
    cut = _Cut(graph, varies)
    for node in [n for n in graph if Varies.LOOP in varies[n.outputs[0]]]:
        for index, value in enumerate(node.inputs):
            if value is not None and varies[value] and Varies.LOOP not in varies[value]:
                node.replace_input_with(index, cut.inside(value))
    graph.sort()
    return cut.invariants


class _Cut:
    """The border between the loop and what is computed before it."""

    def __init__(self, graph: ir.Graph, varies: dict[ir.Value, Varies]) -> None:
        self.invariants: dict[str, ir.Value] = {}
        self._graph, self._varies = graph, varies
        self._inside: dict[ir.Value, ir.Value] = {}

    def inside(self, value: ir.Value) -> ir.Value:
        """What the loop reads in the place of an invariant.

        A chain of moves is cut where the tensor is smallest; the rest of it is done again inside.
        """
        if value not in self._inside:
            source = _smallest(value, lambda each: bool(self._varies[each]))
            self._inside[value] = (
                self._stand_in(value)
                if source is value
                else self._moved(value, self.inside(_moved_from(value)))
            )
        return self._inside[value]

    def _stand_in(self, value: ir.Value) -> ir.Value:
        varies = self._varies[value]
        if value.is_graph_input() and varies == Varies.PROMPT:
            return value
        label = "timestep" if Varies.TIMESTEP in varies else "prompt"
        name = f"{label}/{value.name}"
        stand_in = ir.Value(name=name, shape=value.shape, type=value.type)
        self._graph.inputs.append(stand_in)
        self.invariants[name] = value
        return stand_in

    def _moved(self, value: ir.Value, source: ir.Value) -> ir.Value:
        node = value.producer()
        assert node is not None
        copy = ir.node(
            node.op_type, [source, *node.inputs[1:]], node.attributes, version=node.version
        )
        result = copy.outputs[0]
        result.name, result.shape, result.type = f"{value.name}/inside", value.shape, value.type
        self._graph.append(copy)
        return result


def _smallest(value: ir.Value, varies: Callable[[ir.Value], bool]) -> ir.Value:
    """The smallest tensor on the chain of moves that ends at `value`; the last of equal ones."""
    best, size = value, _size(value)
    while (node := value.producer()) is not None and node.op_type in _MOVES:
        value = _moved_from(value)
        if not varies(value):
            break
        if _size(value) < size:
            best, size = value, _size(value)
    return best


def _moved_from(value: ir.Value) -> ir.Value:
    node = value.producer()
    source = None if node is None else node.inputs[0]
    assert source is not None
    return source


def _size(value: ir.Value) -> float:
    """Elements; infinitely many if unknown."""
    shape = shape_of(value)
    return math.inf if shape is None else math.prod(shape)
