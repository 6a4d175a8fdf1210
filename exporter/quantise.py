"""Quantised layers of the master graph: weights stored as integers, inputs rounded to a grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from exporter.errors import ExportError
from exporter.hoist import Varies, variation
from exporter.weights import keep
from search.core.names import TRANSPOSED, layer_of
from search.core.precision import precision_named
from search.core.quantisation import Layer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from exporter.trace import Master
    from search.core.quantisation import Quantisation, Scheme

    Array = NDArray[Any]
    Ranges = tuple[tuple[float, float], ...]

CHANNELS = {"Conv": 0, "MatMul": -1, "Gemm": 0}
"""Per operation that multiplies weights, the axis of its output channels; Gemm reads them transposed."""


@dataclass(frozen=True)
class Done:
    """What was quantised.

    Attributes:
        weights: the names of the quantised weights.
        grids: per initializer that holds a scale or zero point of inputs, its value in each span of steps.
    """

    weights: frozenset[str]
    grids: Mapping[str, tuple[Array, ...]]

    def set_span(self, graph: ir.Graph, span: int) -> None:
        """Give a step graph, carved from the master, the grids of one span of steps."""
        for name, values in self.grids.items():
            if name in graph.initializers:
                graph.initializers[name].const_value = ir.tensor(values[span], name=name)


def quantise(master: Master, plan: Quantisation) -> Done:
    """Quantise the layers of `plan` in place, for every step graph carved afterwards.

    Only what depends on the latents changes; the prologue stays in floating point. The integers and
    scales of weights are computed when they are written. The grids are those of the first span of steps.

    Raises:
        ExportError: a layer of the plan is not in the graph, or has other input channels, so the plan is for
            another denoiser.
    """
    pass_ = _Pass(master.model.graph, plan.scheme)
    varies = variation(master.model.graph)
    done = set[str]()
    for node in list(master.model.graph):
        name = weights_of(node)
        layer = Layer() if plan.takes_all else plan.layers.get(name)
        if not name or layer is None or Varies.LOOP not in varies[node.outputs[0]]:
            continue
        _require_fit(name, node, layer)
        pass_.quantise(node, layer)
        done.add(name)
    missing = sorted(set(plan.layers) - done)
    if missing:
        msg = (
            f"the quantisation plan has the layer {missing[0]!r}, which is not in the denoiser's loop; make it "
            "again with stepcarve quantise"
        )
        raise ExportError(msg)
    return Done(frozenset(done), pass_.grids)


def quantise_weights(graph: ir.Graph, schemes: Mapping[str, Scheme]) -> None:
    """Quantise the weights of products, in place.

    Args:
        graph: of a part other than the denoiser.
        schemes: by the name of the weights in the part, before they are transposed.
    """
    passes = {scheme: _Pass(graph, scheme) for scheme in schemes.values()}
    for node in list(graph):
        if node.op_type not in CHANNELS or node.domain:
            continue
        weights = node.inputs[1]
        if weights is None or not weights.is_initializer() or weights.const_value is None:
            continue
        scheme = schemes.get((weights.name or "").removesuffix(TRANSPOSED))
        if scheme is not None:
            passes[scheme].quantise(node, Layer())
            if not weights.uses():
                graph.initializers.pop(weights.name or "")


def weights_of(node: ir.Node) -> str:
    """The name, in the denoiser, of the weights that a node multiplies with; empty if it does not."""
    if node.op_type not in CHANNELS or node.domain:
        return ""
    weights = node.inputs[1]
    if weights is None or not weights.is_initializer() or weights.const_value is None:
        return ""
    return layer_of(weights.name or "")


def _ranges(layer: Layer) -> Ranges:
    """Of the layer's inputs, one per span of steps."""
    return layer.spans or ((layer.low, layer.high),)


def _require_fit(name: str, node: ir.Node, layer: Layer) -> None:
    """Refuse exponents for other input channels than those of the layer."""
    if not layer.exponents:
        return
    weights = node.inputs[1]
    assert weights is not None
    assert weights.shape is not None
    shape = weights.shape.numpy()
    channels = shape[1 - CHANNELS[node.op_type] % 2] if len(shape) == 2 else 0
    if len(layer.exponents) != channels:
        msg = (
            f"the quantisation plan has {len(layer.exponents)} exponents for {name!r}, which has {channels} "
            "input channels to smooth (a convolution has none); make it again with stepcarve quantise"
        )
        raise ExportError(msg)


class _Pass:
    """Adds what is needed once.

    That is one set of integers per weight, one division per tensor and exponents, and one rounding per tensor
    and range.
    """

    def __init__(self, graph: ir.Graph, scheme: Scheme) -> None:
        self._graph, self._scheme = graph, scheme
        self.grids: dict[str, tuple[Array, ...]] = {}
        self._weights: dict[ir.Value, ir.Value] = {}
        self._inputs: dict[tuple[ir.Value, Ranges], ir.Value] = {}
        self._divided: dict[tuple[ir.Value, tuple[int, ...]], ir.Value] = {}

    def quantise(self, node: ir.Node, layer: Layer) -> None:
        """Let `node` read quantised weights and, if the scheme says so, inputs."""
        taken, weights = node.inputs[:2]
        assert taken is not None
        assert weights is not None
        if self._scheme.inputs:
            key = self._divided_by_powers(node, taken, layer), _ranges(layer)
            if key not in self._inputs:
                self._inputs[key] = self._rounded(node, *key)
            node.replace_input_with(0, self._inputs[key])
        if weights not in self._weights:
            self._weights[weights] = self._stored(node, weights, layer)
        node.replace_input_with(1, self._weights[weights])

    def _divided_by_powers(self, node: ir.Node, value: ir.Value, layer: Layer) -> ir.Value:
        """`value` divided by the powers of two of `layer`; itself without any."""
        if not layer.exponents:
            return value
        key = value, layer.exponents
        if key not in self._divided:
            name = f"{value.name}/divided{len(self._divided)}"
            numbers = value.dtype or ir.DataType.FLOAT
            factors = self._constant(
                f"{name}/factors", (1 / np.array(layer.powers)).astype(numbers.numpy())
            )
            keep(factors)
            product = ir.node("Mul", [value, factors])
            result = product.outputs[0]
            result.name, result.shape, result.type = name, value.shape, value.type
            self._graph.insert_before(node, product)
            self._divided[key] = result
        return self._divided[key]

    def _rounded(self, node: ir.Node, value: ir.Value, ranges: Ranges) -> ir.Value:
        """`value` on the grid of the first range."""
        grids = [self._scheme.grid_of(low, high) for low, high in ranges]
        kind = precision_named(self._scheme.inputs).dtype
        numbers = (value.dtype or ir.DataType.FLOAT).numpy()
        name = f"{value.name}/{','.join(f'{low:.6g}:{high:.6g}' for low, high in ranges)}"
        scales = tuple(np.array(each.scale, numbers) for each in grids)
        zeros = tuple(np.array(each.zero, kind) for each in grids)
        scale = self._constant(f"{name}/scale", scales[0])
        zero = self._constant(f"{name}/zero", zeros[0])
        self.grids |= {scale.name or "": scales, zero.name or "": zeros}
        return self._through(node, value, scale, zero, name)

    def _through(
        self, node: ir.Node, value: ir.Value, scale: ir.Value, zero: ir.Value, name: str
    ) -> ir.Value:
        """Quantise and back, before `node`."""
        down = ir.node("QuantizeLinear", [value, scale, zero])
        up = ir.node("DequantizeLinear", [down.outputs[0], scale, zero])
        for made, dtype, end in ((down, zero.dtype, "stored"), (up, value.dtype, "rounded")):
            result = made.outputs[0]
            result.name, result.shape = f"{name}/{end}", value.shape
            result.type = None if dtype is None else ir.TensorType(dtype)
        self._graph.insert_before(node, [down, up])
        return up.outputs[0]

    def _stored(self, node: ir.Node, weights: ir.Value, layer: Layer) -> ir.Value:
        """What `weights` become: their integers times their scales."""
        axis, rank = CHANNELS[node.op_type], len(weights.shape or ())
        stored = StoredWeights.of(weights, axis % rank, self._scheme, layer)
        integers, scales = (self._initializer(each) for each in stored)
        attributes: dict[str, Any] = {"axis": axis % rank}
        if scales.shape is not None and len(scales.shape) > 1:
            attributes = {"axis": 1 - axis % rank, "block_size": self._scheme.block}
        up = ir.node("DequantizeLinear", [integers, scales], attributes)
        result = up.outputs[0]
        result.name = f"{weights.name}/rounded"
        result.shape, result.type = weights.shape, weights.type
        self._graph.insert_before(node, up)
        return result

    def _initializer(self, tensor: ir.LazyTensor) -> ir.Value:
        value = ir.Value(
            name=tensor.name,
            shape=ir.Shape(tensor.shape),
            type=ir.TensorType(tensor.dtype),
            const_value=tensor,
        )
        keep(value, tensor.name)
        self._graph.initializers[value.name or ""] = value
        return value

    def _constant(self, name: str, array: Array) -> ir.Value:
        if name not in self._graph.initializers:
            tensor = ir.tensor(array, name=name)
            self._graph.initializers[name] = ir.Value(
                name=name,
                shape=ir.Shape(array.shape),
                type=ir.TensorType(tensor.dtype),
                const_value=tensor,
            )
        return self._graph.initializers[name]


class StoredWeights:
    """The integers and scales of one layer's weights."""

    @staticmethod
    def of(
        weights: ir.Value, axis: int, scheme: Scheme, layer: Layer
    ) -> tuple[ir.LazyTensor, ir.LazyTensor]:
        """Integers and scales, made from the weights when they are read.

        Args:
            weights: an initializer.
            axis: of the output channels.
            scheme: of the numbers; blocks only where they divide a matrix, else whole channels.
            layer: whose exponents multiply the weights first.
        """
        tensor = weights.const_value
        assert tensor is not None
        shape = tuple(tensor.shape.numpy())
        assert weights.dtype is not None
        numbers, name = weights.dtype, f"{weights.name}.{scheme.name}"
        block = scheme.block if len(shape) == 2 else 0
        if block and shape[1 - axis] % block:
            block = 0
        kind = ir.DataType[precision_named(scheme.weights).onnx]
        sizes: tuple[int, ...] = (shape[axis],)
        if block:
            sizes = tuple(n if i == axis else n // block for i, n in enumerate(shape))

        def whole() -> Array:
            return _times_powers(tensor.numpy(), axis, layer)

        def scales() -> Array:
            return scales_of(whole(), axis, block, scheme).astype(numbers.numpy())

        def integers() -> Array:
            return integers_of(whole(), scales(), axis, block, scheme)

        return (
            _lazy(integers, kind, shape, name),
            _lazy(scales, numbers, sizes, f"{name}.scale"),
        )


def _times_powers(weights: Array, axis: int, layer: Layer) -> Array:
    """The weights times the powers of two of their input channels; `axis` is that of the output channels."""
    if not layer.exponents:
        return weights
    powers = np.array(layer.powers, np.float32)
    return weights.astype(np.float32) * (powers[:, None] if axis else powers)


def scales_of(weights: Array, axis: int, block: int, scheme: Scheme) -> Array:
    """One scale per output channel `[out]`, or per block of one: the matrix's shape over `block`."""
    size = np.abs(weights.astype(np.float32))
    if block:
        rows, columns = size.shape
        if axis:
            largest = size.reshape(-1, block, columns).max(axis=1)
        else:
            largest = size.reshape(rows, -1, block).max(axis=2)
    else:
        largest = size.max(axis=tuple(i for i in range(size.ndim) if i != axis))
    return np.where(largest > 0, largest / scheme.largest, 1.0).astype(np.float32)


def integers_of(weights: Array, scales: Array, axis: int, block: int, scheme: Scheme) -> Array:
    """The weights over their scales, rounded to what the scheme stores."""
    wide = scales.astype(np.float32)
    if block:
        wide = wide.repeat(block, axis=1 - axis)
    else:
        wide = wide.reshape([-1 if i == axis else 1 for i in range(weights.ndim)])
    kind = precision_named(scheme.weights).dtype
    found = weights.astype(np.float32) / wide
    if "float" not in kind.name:
        found = np.rint(found)
    return found.clip(-scheme.largest, scheme.largest).astype(kind)


def _lazy(
    make: Callable[[], Array], dtype: ir.DataType, shape: tuple[int, ...], name: str
) -> ir.LazyTensor:
    return ir.LazyTensor(
        lambda: ir.Tensor(make(), dtype=dtype, name=name),
        dtype=dtype,
        shape=ir.Shape(shape),
        name=name,
    )
