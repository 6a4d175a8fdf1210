"""The graph that is run once per prompt: it gives the step graphs their loop invariants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator
from onnx_ir.passes import common as passes

from exporter.errors import ExportError
from exporter.graph import DOMAIN, forget_inner_types, sort_initializers
from exporter.group_norm import decompose_group_norms
from exporter.hoist import BOTH, Varies, variation
from exporter.rows import shape_of
from exporter.weights import keep
from search.core.names import TIMESTEP

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from numpy.typing import NDArray

    from exporter.trace import Master


@dataclass(frozen=True)
class Prologue:
    """What is computed before the loop.

    Attributes:
        model: conditions -> invariants, under the names the step graphs know.
        rows: names of the outputs that have one row per timestep, along a first axis of their own.
    """

    model: ir.Model
    rows: tuple[str, ...]


def make_prologue(
    master: Master, reads: Collection[str], timesteps: Sequence[float]
) -> Prologue | None:
    """The prologue for step graphs carved from `master`.

    Args:
        master: of the denoiser.
        reads: inputs of the step graphs; those that are no invariants are passed over.
        timesteps: the distinct ones of the program, in the order of the rows.

    Returns:
        None if no step graph reads an invariant.
    """
    wanted = {name: value for name, value in master.invariants.items() if name in reads}
    if not wanted:
        return None
    outside = [v for n, v in master.inputs.items() if n not in master.invariants]
    graph = ir.convenience.extract(master.model.graph, outside, list(wanted.values()))
    graph.name = "prologue"
    varies = variation(graph)
    rows = tuple(
        name
        for name, value in zip(wanted, graph.outputs, strict=True)
        if Varies.TIMESTEP in varies[value]
    )
    decompose_group_norms(graph, lambda node: _is_text_in_float32(node, varies))
    varies = variation(graph)
    table = _tabulate(graph, varies, timesteps)
    _Widening(graph, varies, table, len(timesteps)).give(list(wanted))
    graph.opset_imports.pop(DOMAIN, None)
    model = ir.Model(graph, ir_version=master.model.ir_version, producer_name="stepcarve")
    passes.TopologicalSortPass()(model)
    passes.RemoveUnusedNodesPass()(model)
    for value in [v for v in graph.inputs if not v.uses()]:
        graph.inputs.remove(value)
    forget_inner_types(graph)
    sort_initializers(graph)
    return Prologue(model, rows)


def _is_text_in_float32(node: ir.Node, varies: dict[ir.Value, Varies]) -> bool:
    """Whether a node computes what the prompt alone decides, in full precision."""
    [made] = node.outputs
    return varies[made] == Varies.PROMPT and made.dtype is ir.DataType.FLOAT


def _tabulate(
    graph: ir.Graph, varies: dict[ir.Value, Varies], timesteps: Sequence[float]
) -> dict[ir.Value, ir.Value]:
    """Compute what the timestep alone decides, where it is an output or meets the prompt.

    Returns:
        Per such value `[...]`, an initializer `[T, ...]` with its rows.
    """
    met = [v for n in graph if varies[n.outputs[0]] == BOTH for v in n.inputs if v is not None]
    wanted = list(dict.fromkeys(v for v in (*graph.outputs, *met) if varies[v] == Varies.TIMESTEP))
    table = {}
    for value, rows in zip(wanted, _evaluate(graph, wanted, timesteps), strict=True):
        table[value] = _add_constant(graph, f"table/{value.name}", rows)
        keep(table[value])
    return table


def _evaluate(
    graph: ir.Graph, wanted: list[ir.Value], timesteps: Sequence[float]
) -> list[NDArray[Any]]:
    """The values `wanted` for all timesteps, `[T, ...]` each, by onnx's reference implementation."""
    if not wanted:
        return []
    clock = next(value for value in graph.inputs if value.name == TIMESTEP)
    part = ir.convenience.extract(graph, [clock], wanted)
    weights = {
        n: v.const_value.numpy() for n, v in part.initializers.items() if v.const_value is not None
    }
    part.inputs.extend(part.initializers.values())
    part.initializers.clear()
    part.opset_imports.pop(DOMAIN, None)
    run = ReferenceEvaluator(ir.to_proto(ir.Model(part, ir_version=10))).run
    rows = [run(None, {TIMESTEP: np.array(each, np.float32), **weights}) for each in timesteps]
    return [np.stack(column) for column in zip(*rows, strict=True)]


class _Widening:
    """Does what depends on prompt and timestep for all timesteps in one go, in place.

    A tensor `[R, ...]` of one call becomes `[T * R, ...]`: that is how operations that act on rows
    see it. Reading the weights of these operations is then done once per prompt, not at every step.
    """

    def __init__(
        self,
        graph: ir.Graph,
        varies: dict[ir.Value, Varies],
        table: dict[ir.Value, ir.Value],
        timesteps: int,
    ) -> None:
        self._graph, self._varies, self._table, self._timesteps = graph, varies, table, timesteps
        self._wide: dict[ir.Value, ir.Value] = {}

    def give(self, names: list[str]) -> None:
        """Make the graph's outputs those of all timesteps, `[T, ...]`, and call them `names`."""
        for node in [n for n in self._graph if self._varies[n.outputs[0]] == BOTH]:
            for index, value in enumerate(node.inputs):
                if value is not None and self._varies[value] in (Varies.PROMPT, Varies.TIMESTEP):
                    node.replace_input_with(index, self._widened(value))
            if node.op_type == "Reshape":
                _, *rest = _static(node.outputs[0])
                node.replace_input_with(1, self._sizes([-1, *rest]))
        for index, (value, name) in enumerate(zip(list(self._graph.outputs), names, strict=True)):
            output = self._rows_of(value)
            output.name = name
            self._graph.outputs[index] = output

    def _widened(self, value: ir.Value) -> ir.Value:
        """The rows of all timesteps below one another."""
        if value not in self._wide:
            shape = _static(value)
            self._wide[value] = (
                self._add("Reshape", [self._table[value], self._sizes([-1, *shape[1:]])])
                if value in self._table
                else self._add(
                    "Tile", [value, self._sizes([self._timesteps, *[1] * (len(shape) - 1)])]
                )
            )
        return self._wide[value]

    def _rows_of(self, value: ir.Value) -> ir.Value:
        kind = self._varies[value]
        if kind == Varies.PROMPT:
            return value
        shape = _static(value)
        output = (
            self._add("Identity", [self._table[value]])
            if kind == Varies.TIMESTEP
            else self._add("Reshape", [value, self._sizes([self._timesteps, *shape])])
        )
        output.shape, output.type = ir.Shape([self._timesteps, *shape]), value.type
        return output

    def _add(self, op_type: str, inputs: list[ir.Value]) -> ir.Value:
        node = ir.node(op_type, inputs)
        self._graph.append(node)
        return node.outputs[0]

    def _sizes(self, sizes: list[int]) -> ir.Value:
        """A constant; equal ones are one."""
        name = f"sizes/{'x'.join(map(str, sizes))}"
        if name not in self._graph.initializers:
            _add_constant(self._graph, name, np.array(sizes, np.int64))
        return self._graph.initializers[name]


def _add_constant(graph: ir.Graph, name: str, array: NDArray[Any]) -> ir.Value:
    tensor = ir.tensor(array, name=name)
    value = ir.Value(
        name=name,
        shape=ir.Shape(array.shape),
        type=ir.TensorType(tensor.dtype),
        const_value=tensor,
    )
    graph.register_initializer(value)
    return value


def _static(value: ir.Value) -> tuple[int, ...]:
    shape = shape_of(value)
    if shape is None:
        msg = (
            f"the shape of {value.name!r}, which does not depend on the latents, is not known; "
            "trace the denoiser with static shapes"
        )
        raise ExportError(msg)
    return shape
