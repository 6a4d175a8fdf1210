"""What an action emits, as nodes of a step graph: its row of coefficients over its sources."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from exporter.graph import BOUNDARY, DOMAIN
from exporter.zeros import add_zeros
from search.core.actions import RECORDS, Source
from search.core.program import COEFFICIENTS
from search.core.topology import Target, TargetKind, residual_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def add_mix(
    graph: ir.Graph,
    target: Target,
    *,
    name: Callable[[Target], str],
    like: ir.Value,
    base: ir.Value | None,
) -> ir.Value:
    """Add what a mix is the sum of; cached sources and free coefficients become inputs of `graph`.

    Args:
        graph: of a step.
        target: the mix.
        name: of tensors.
        like: a value of the mix's shape and type.
        base: the base of `target`, or None for zeros.
    """
    assert target.action is not None
    record = RECORDS[target.action]
    weights = _free_weights(graph, f"{name(target)}{COEFFICIENTS}", len(record.free), like)
    total: ir.Value | None = None
    for source, weight in record.row.items():
        if source is Source.BASE and base is None:
            continue
        tensor = (
            base if source is Source.BASE else _cached(graph, _role(source, target), name, like)
        )
        assert tensor is not None
        term = (
            tensor
            if weight == 1
            else _node(
                graph,
                "Mul",
                [next(weights) if weight is None else _constant(graph, weight, like), tensor],
                like,
            )
        )
        total = term if total is None else _node(graph, "Add", [total, term], like)
    if total is None:
        return add_zeros(graph, like=like, name=f"{name(target)}/zeros")
    # Of its own, so that a source that is emitted as it is, or cached too, keeps its name.
    return _node(graph, BOUNDARY, [total], like, domain=DOMAIN)


def residual(graph: ir.Graph, port: ir.Value, base: ir.Value | None, name: str) -> ir.Value:
    """Add port minus base, under that name; a base of None is zeros."""
    difference = port if base is None else _node(graph, "Sub", [port, base], port)
    made = _node(graph, BOUNDARY, [difference], port, domain=DOMAIN)
    made.name = name
    return made


def _role(source: Source, target: Target) -> Target:
    if source is Source.RESIDUAL:
        return residual_of(target.port, target.base)
    return Target(TargetKind(source.value), target.port)


def _cached(
    graph: ir.Graph, tensor: Target, name: Callable[[Target], str], like: ir.Value
) -> ir.Value:
    """An input for a tensor of an earlier call."""
    value = ir.Value(name=name(tensor), shape=like.shape, type=like.type)
    graph.inputs.append(value)
    return value


def _free_weights(graph: ir.Graph, name: str, count: int, like: ir.Value) -> Iterator[ir.Value]:
    """The coefficients that a call brings along: an input `[count]` in float32, as scalars like `like`."""
    if not count:
        return
    given = ir.Value(name=name, shape=ir.Shape([count]), type=ir.TensorType(ir.DataType.FLOAT))
    graph.inputs.append(given)
    cast = _node(graph, "Cast", [given], None, to=int(like.dtype or ir.DataType.FLOAT))
    for place in range(count):
        index = _node(graph, "Constant", [], None, value=ir.tensor(place))
        yield _node(graph, "Gather", [cast, index], None, axis=0)


def _constant(graph: ir.Graph, weight: float, like: ir.Value) -> ir.Value:
    return _node(graph, "Constant", [], None, value=ir.tensor(weight, dtype=like.dtype))


def _node(
    graph: ir.Graph,
    op_type: str,
    inputs: list[ir.Value],
    like: ir.Value | None,
    *,
    domain: str = "",
    **attributes: object,
) -> ir.Value:
    """The result of a new node, of the shape and type of `like`."""
    node = ir.node(op_type, inputs, attributes, domain=domain, version=1 if domain else None)
    graph.append(node)
    result = node.outputs[0]
    if like is not None:
        result.shape, result.type = like.shape, like.type
    return result
