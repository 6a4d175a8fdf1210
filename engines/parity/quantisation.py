"""A bundle's integers, scales and ranges against the weights and the plan; what no engine can get right."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
import torch

from search.core.names import TRANSPOSED, layer_of
from search.core.quantisation import Layer
from search.model.current_step import current_step
from search.model.family import Request
from search.model.reference import sample
from search.quantise.calibration import costs_of
from search.quantise.layers import layers_of, watched
from search.quantise.smoothing import divided, multiplied

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray
    from torch import Tensor

    from engines.parity.reference import Reference
    from exporter.bundle import Bundle
    from search.core.quantisation import Quantisation

    Array = NDArray[Any]

HALF = 0.5 + 1e-3
"""Of a scale: how far a rounded weight may be from the weight, with float32's rounding."""
CLIPPED = 0.05
"""Relative L2 of what a range cuts off an input, from which on it is too narrow."""


def check_quantisation(reference: Reference) -> tuple[str, ...]:
    """The faults of a quantised bundle's weights, grids and ranges, one sentence each."""
    bundle = reference.bundle
    plan = bundle.plan
    assert plan is not None
    modules: dict[str, Any] = layers_of(reference.opened)
    weights = {name: module.weight.detach() for name, module in modules.items()}
    graphs = dict.fromkeys((call.graph, plan.span_of(call.step)) for call in bundle.calls)
    found = dict.fromkeys(
        fault
        for graph, span in graphs
        for fault in _graph_faults(bundle, bundle.graphs[graph], plan.at(span), weights)
    )
    return (*found, *_range_faults(reference, plan))


def listed(bundle: Bundle, plan: Quantisation) -> Quantisation:
    """`plan` with its layers listed, which one for the weights of all layers does not."""
    if not plan.takes_all:
        return plan
    names = dict.fromkeys(
        layer_of(stored_name(stored, plan))
        for file in bundle.graphs
        for node in ir.load(bundle.file(file)).graph
        if (stored := stored_weights(node)) is not None
    )
    return replace(plan, layers=dict.fromkeys(names, Layer()))


def _graph_faults(
    bundle: Bundle, file: str, plan: Quantisation, weights: Mapping[str, Any]
) -> Iterator[str]:
    graph = ir.load(bundle.file(file)).graph
    for node in graph:
        stored = stored_weights(node)
        if stored is None:
            continue
        known = stored_name(stored, plan)
        name = layer_of(known)
        if name not in weights or not (plan.takes_all or name in plan.layers):
            yield f"{file}: {name!r} is quantised, which the plan does not ask for; export again"
            continue
        held = _held_like(stored.inputs[1], weights[name])
        right = multiplied(held, plan.layers.get(name, Layer()))
        yield from _weight_faults(
            file, name, stored, right.T if known.endswith(TRANSPOSED) else right
        )
        if plan.scheme.inputs:
            yield from _grid_faults(file, name, node, plan)
            yield from _power_faults(file, name, node, plan.layers[name])


def stored_weights(node: ir.Node) -> ir.Node | None:
    """The DequantizeLinear that gives a product the weights that are stored in the bundle, or None."""
    if len(node.inputs) < 2 or node.inputs[1] is None or node.domain:
        return None
    stored = node.inputs[1].producer()
    if stored is None or stored.op_type != "DequantizeLinear":
        return None
    value = stored.inputs[0]
    return stored if value is not None and value.is_initializer() else None


def is_rounded(node: ir.Node) -> bool:
    """Whether a node is the second half of rounding a tensor to a grid."""
    down = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
    return (
        node.op_type == "DequantizeLinear" and down is not None and down.op_type == "QuantizeLinear"
    )


def before_rounding(value: ir.Value) -> ir.Value:
    """What was rounded to a grid to give `value`; itself if nothing was."""
    up = value.producer()
    if up is None or not is_rounded(up):
        return value
    assert up.inputs[0] is not None
    down = up.inputs[0].producer()
    assert down is not None
    assert down.inputs[0] is not None
    return down.inputs[0]


def before_dividing(value: ir.Value, layer: Layer) -> ir.Value:
    """What was divided by the powers of two of `layer` to give `value`; itself if nothing was."""
    product = _division(value) if layer.exponents else None
    before = value if product is None else product.inputs[0]
    assert before is not None
    return before


def _division(value: ir.Value) -> ir.Node | None:
    """The node that multiplies with constants to give `value`, or None."""
    product = value.producer()
    if product is None or product.op_type != "Mul" or product.inputs[1] is None:
        return None
    return product if product.inputs[1].const_value is not None else None


def stored_name(node: ir.Node, plan: Quantisation) -> str:
    """What the graph calls the weights that a DequantizeLinear gives."""
    value = node.inputs[0]
    stored = (value.name or "") if value is not None else ""
    return stored.removesuffix(f".{plan.scheme.name}")


def _weight_faults(file: str, name: str, node: ir.Node, weights: Tensor) -> Iterator[str]:
    """A dequantised weight that is further than half a scale from the weight."""
    integers, scales = (_tensor(each) for each in node.inputs[:2])
    zeros = _tensor(node.inputs[2]) if len(node.inputs) > 2 else np.zeros_like(scales)
    right = weights.numpy(force=True)
    block = node.attributes.get_int("block_size", 0)
    axis = node.attributes.get_int("axis", 1)
    if block:
        wide, zero = (each.repeat(block, axis=axis) for each in (scales, zeros))
    else:
        shape = [-1 if i == axis else 1 for i in range(integers.ndim)]
        wide, zero = scales.reshape(shape), zeros.reshape(shape)
    off = np.abs((integers - zero) * wide - right)
    # Numbers in floating point are spaced by a sixteenth of themselves, integers by one.
    spacing = wide if _is_integer(node) else np.maximum(wide * 2.0**-9, np.abs(right) / 8)
    if not (off <= HALF * np.abs(spacing)).all():
        worst = float((off / np.abs(spacing)).max())
        yield (
            f"{file}: the stored weights of {name!r} are {worst:.1f} steps of their scale from the "
            "pipeline's, half a step is rounding; export again"
        )


def _held_like(scales: ir.Value | None, weights: Tensor) -> Tensor:
    """The weights in the dtype of the scales, which the graph was exported in, as float32."""
    assert scales is not None
    assert scales.dtype is not None
    whole: Array = weights.float().numpy(force=True)
    return torch.from_numpy(whole.astype(scales.dtype.numpy()).astype(np.float32))


def _is_integer(node: ir.Node) -> bool:
    value = node.inputs[0]
    return value is not None and value.dtype is not None and not value.dtype.is_floating_point()


def _grid_faults(file: str, name: str, node: ir.Node, plan: Quantisation) -> Iterator[str]:
    """A layer whose inputs are rounded to another grid than the plan's."""
    layer, taken = plan.layers[name], node.inputs[0]
    wanted = plan.scheme.grid_of(layer.low, layer.high)
    up = None if taken is None else taken.producer()
    if up is None or not is_rounded(up):
        yield f"{file}: the inputs of {name!r} are not rounded, as the plan asks; export again"
        return
    down = up.inputs[0].producer() if up.inputs[0] is not None else None
    for each in (up, down):
        assert each is not None
        scale, zero = (float(_tensor(value)) for value in each.inputs[1:3])
        if not np.isclose(scale, wanted.scale, rtol=1e-2) or zero != wanted.zero:
            yield (
                f"{file}: the inputs of {name!r} are rounded with scale {scale:.6g} and zero {zero:g}, the "
                f"plan asks for {wanted.scale:.6g} and {wanted.zero}; export again"
            )
            return


def _power_faults(file: str, name: str, node: ir.Node, layer: Layer) -> Iterator[str]:
    """A layer whose inputs are divided by other powers of two than the plan's."""
    if not layer.exponents or node.inputs[0] is None:
        return
    product = _division(before_rounding(node.inputs[0]))
    found = None if product is None else _tensor(product.inputs[1])
    wanted = 1 / np.array(layer.powers, np.float32)
    if found is None or found.shape != wanted.shape:
        yield (
            f"{file}: the inputs of {name!r} are not divided by a power of two per channel, as the plan asks; "
            "export again"
        )
    elif not np.array_equal(found, wanted):
        channel = int(np.argmax(found != wanted))
        yield (
            f"{file}: channel {channel} of the inputs of {name!r} is multiplied by {found[channel]:g}, the "
            f"plan asks for {wanted[channel]:g}; export again"
        )


def _tensor(value: ir.Value | None) -> Array:
    assert value is not None
    assert value.const_value is not None
    return value.const_value.numpy().astype(np.float32)


def _range_faults(reference: Reference, plan: Quantisation) -> Iterator[str]:
    """Layers whose inputs lie outside of their range, on the run that the others are compared with."""
    if not plan.scheme.inputs:
        return
    layers = {n: m for n, m in layers_of(reference.opened).items() if n in plan.layers}
    spans = [plan.at(span).layers for span in range(plan.spans)]
    costs = {name: costs_of(module, plan.layers[name]) for name, module in layers.items()}
    cut: dict[str, float] = {}

    def see(name: str, taken: Tensor, _made: Tensor) -> None:
        share = _cut_off(taken, spans[plan.span_of(current_step())][name], costs[name])
        cut[name] = max(cut.get(name, 0.0), share)

    subnet, inputs = reference.subnet, reference.inputs
    request = Request(
        prompts=(inputs.prompt,) * reference.bundle.latent_shape[0],
        steps=subnet.binding.inference_steps,
        guidance=inputs.guidance,
        negative=inputs.negative,
        latents=None if inputs.latents is None else torch.from_numpy(inputs.latents),
    ).sized(reference.opened.size(subnet.binding.noise_shape))
    with watched(layers, see):
        drawn = torch.Generator().manual_seed(inputs.seed)
        sample(reference.opened, request, subnet, generator=drawn, grid=subnet.binding.grid)
    for name, share in cut.items():
        if share > CLIPPED:
            yield (
                f"the range of the inputs of {name!r} cuts off {share:.0%} of them (relative L2); calibrate "
                "again with stepcarve quantise, on more pictures or with --ranges minmax"
            )


def _cut_off(tensor: Tensor, layer: Layer, costs: Tensor) -> float:
    """Relative L2 of what the range of a layer does not hold, by what it costs the outputs."""
    tensor, weights = divided(tensor, layer), costs.sqrt().to(tensor.dtype)
    off = tensor - tensor.clamp(min(layer.low, 0.0), max(layer.high, 0.0))
    return float((off * weights).norm() / (tensor * weights).norm().clamp_min(1e-12))
