"""Fake quantisation: a denoiser that computes in floating point what its quantised graph computes."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch

from search.model.current_step import current_step
from search.quantise.layers import KINDS, layers_of
from search.quantise.smoothing import multiplied

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import Tensor, nn

    from search.core.quantisation import Grid, Layer, Quantisation, Scheme
    from search.model.pipeline import Pipeline


@contextmanager
def quantised(pipeline: Pipeline, plan: Quantisation) -> Iterator[None]:
    """While open, the layers of `plan` round their weights and inputs as the exported graphs do."""
    with rounded(layers_of(pipeline), plan):
        yield


@contextmanager
def rounded(layers: Mapping[str, nn.Module], plan: Quantisation) -> Iterator[None]:
    """While open, the layers named in `plan` round their weights and inputs.

    Where the plan has several spans of steps, the denoiser must be gated, which says at what step it is.

    Args:
        layers: of the denoiser, by the names of their weights.
        plan: the layers to round, with the ranges and exponents of their inputs, and the number format.
    """
    with ExitStack() as stack:
        for name, layer in plan.layers.items():
            stack.enter_context(_rounded(layers[name], layer, plan))
        yield


@contextmanager
def _rounded(module: nn.Module, layer: Layer, plan: Quantisation) -> Iterator[None]:
    weight: Any = module.weight
    whole, scheme = weight.data, plan.scheme
    handle = None
    if scheme.inputs:
        ranges = [layer.at(span) for span in range(plan.spans)]
        grids = [scheme.grid_of(each.low, each.high) for each in ranges]
        powers = whole.new_tensor(layer.powers) if layer.exponents else None

        def round_taken(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            taken = args[0] if powers is None else args[0] / powers
            grid = grids[plan.span_of(current_step()) if plan.starts else 0]
            return round_inputs(taken, grid, scheme), *args[1:]

        handle = module.register_forward_pre_hook(round_taken)
    weight.data = round_weights(multiplied(whole, layer), scheme)
    try:
        yield
    finally:
        weight.data = whole
        if handle is not None:
            handle.remove()


def round_part(part: nn.Module, scheme: Scheme) -> Callable[[], None]:
    """Round the weights of all layers of a part of a pipeline in place; returns a function that undoes it."""
    before: list[tuple[Any, Tensor]] = []
    for weight in part_weights(part):
        before.append((weight, weight.data))
        weight.data = round_weights(weight.data, scheme)

    def undo() -> None:
        for weight, whole in before:
            weight.data = whole

    return undo


def part_weights(part: nn.Module) -> list[Any]:
    """The weights of the layers of a part that can be quantised, each once."""
    found = [module.weight for module in part.modules() if isinstance(module, KINDS)]
    return list({id(weight): weight for weight in found}.values())


def round_inputs(tensor: Tensor, grid: Grid, scheme: Scheme) -> Tensor:
    """`tensor` on the grid; gradients pass where nothing is clipped."""
    if "float" in scheme.inputs:
        scaled = (tensor / grid.scale).clamp(scheme.lowest, scheme.highest)
        near = scaled.to(torch.float8_e4m3fn).to(tensor.dtype)
        return (scaled + (near - scaled).detach()) * grid.scale
    return torch.fake_quantize_per_tensor_affine(
        tensor, grid.scale, grid.zero, int(scheme.lowest), int(scheme.highest)
    )


def round_weights(weights: Tensor, scheme: Scheme) -> Tensor:
    """`weights` `[out, ...]` as their integers times their scales."""
    block = scheme.block
    if block and (weights.ndim != 2 or weights.shape[1] % block):
        block = 0
    rows = weights.float().reshape(-1, block) if block else weights.float().flatten(1)
    largest = rows.abs().amax(dim=1, keepdim=True)
    scale = torch.where(largest > 0, largest / scheme.largest, 1.0)
    scale = scale.to(weights.dtype).float()
    scaled = rows / scale
    if "float" in scheme.weights:
        near = scaled.clamp(-scheme.largest, scheme.largest).to(torch.float8_e4m3fn).float()
    else:
        near = scaled.round().clamp(-scheme.largest, scheme.largest)
    return (near * scale).reshape(weights.shape).to(weights.dtype)
