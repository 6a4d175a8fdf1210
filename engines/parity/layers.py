"""The first quantised layer of a call that is off: what it gives against what its own inputs should give."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir
import torch

from engines.parity.measure import relative_l2
from engines.parity.quantisation import (
    before_dividing,
    before_rounding,
    listed,
    stored_name,
    stored_weights,
)
from search.core.names import layer_of
from search.core.quantisation import Layer
from search.quantise.layers import layers_of
from search.quantise.rounded import rounded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from engines.parity.reference import Reference
    from exporter.bundle import Bundle
    from search.core.quantisation import Quantisation

    Array = NDArray[Any]
    Shapes = Mapping[str, tuple[int, ...]]

SHARE = 0.5
"""Of what rounding does to a layer's product, that an engine may be off by on the same inputs."""
LEAST = 2.0**-12
"""Relative L2 that is never off."""


def first_layer(
    reference: Reference, outputs: Callable[[Shapes], Mapping[str, Array]], number: int
) -> str:
    """A sentence about the first layer of call `number` whose product is not that of its inputs.

    What a layer takes is the engine's own, so that no earlier layer counts, and no rounding falls the
    other way.

    Args:
        reference: of a quantised bundle.
        outputs: gives inner values of the call, whose shapes it is told.
        number: of the call.

    Returns:
        The sentence; empty if all layers do what they should.
    """
    plan = reference.bundle.plan
    assert plan is not None
    plan = plan.at(plan.span_of(reference.bundle.calls[number].step))
    nodes, shapes = _layers(reference.bundle, plan, number)
    modules, layers = layers_of(reference.opened), listed(reference.bundle, plan).layers
    takes = {name: _taken(node, layers.get(name, Layer())) for name, node in nodes.items()}
    wanted = {*takes.values(), *map(_made, nodes.values())}
    found = outputs({name: shapes[name] for name in sorted(wanted & shapes.keys())})
    count = 0
    for name, node in nodes.items():
        taken, made = found.get(takes[name]), found.get(_made(node))
        if taken is None or made is None or name not in modules or name not in layers:
            continue
        whole, right = (
            _product(modules[name], node, taken, context)
            for context in (
                nullcontext(),
                rounded(modules, replace(plan, layers={name: layers[name]})),
            )
        )
        off, allowed = relative_l2(made, right), max(LEAST, SHARE * relative_l2(right, whole))
        if not off <= allowed:
            return (
                f"the first layer that is off is {name!r}, its product differs by {off:.2e} from that of the "
                f"same inputs in PyTorch, allowed is {allowed:.1e}; {count} before it are right"
            )
        count += 1
    return ""


def _layers(
    bundle: Bundle, plan: Quantisation, number: int
) -> tuple[dict[str, ir.Node], dict[str, tuple[int, ...]]]:
    """Of the graph of a call: layer -> its node, in order; and the shapes of what nodes give."""
    file = bundle.file(bundle.graphs[bundle.calls[number].graph])
    nodes = {
        layer_of(stored_name(stored, plan)): node
        for node in ir.load(file).graph
        if (stored := stored_weights(node)) is not None
    }
    return nodes, _shapes(onnx.load(str(file), load_external_data=False))


def _taken(node: ir.Node, layer: Layer) -> str:
    """What a layer takes, before it is divided and rounded."""
    assert node.inputs[0] is not None
    return before_dividing(before_rounding(node.inputs[0]), layer).name or ""


def _made(node: ir.Node) -> str:
    return node.outputs[0].name or ""


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Those of the values that nodes give."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    return {
        value.name: tuple(each.dim_value for each in value.type.tensor_type.shape.dim)
        for value in (*inferred.value_info, *inferred.output)
    }


def _product(
    module: Any, node: ir.Node, taken: Array, context: AbstractContextManager[None]
) -> Array:
    """What a layer makes of its inputs, with a bias where its node adds one."""
    has_bias = len(node.inputs) > 2 and node.inputs[2] is not None
    with torch.no_grad(), context, nullcontext() if has_bias else _without_bias(module):
        made: Array = module(torch.from_numpy(taken.astype(np.float32))).numpy(force=True)
    return made


@contextmanager
def _without_bias(module: Any) -> Iterator[None]:
    bias, module.bias = module.bias, None
    try:
        yield
    finally:
        module.bias = bias
