"""Scales moved between inputs and weights of linear layers, so that inputs lose less by rounding.

SmoothQuant (Xiao et al. 2023), with powers of two: dividing and multiplying by them is exact in floating
point, so a layer computes bit for bit what it did until something is rounded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from search.core.quantisation import LARGEST_EXPONENT
from search.quantise.layers import watched

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from torch import Tensor

    from search.core.quantisation import Layer


def divided(inputs: Tensor, layer: Layer) -> Tensor:
    """The inputs `[..., in]` over the layer's powers of two; as they are if it has none."""
    return inputs / inputs.new_tensor(layer.powers) if layer.exponents else inputs


def multiplied(weights: Tensor, layer: Layer) -> Tensor:
    """The weights `[out, in]` times the layer's powers of two; as they are if it has none."""
    return weights * weights.new_tensor(layer.powers) if layer.exponents else weights


def find_exponents(
    layers: Mapping[str, nn.Module], run: Callable[[], object], strength: float
) -> dict[str, tuple[int, ...]]:
    """One exponent per input channel of each linear layer that `run` calls; () where all are 0.

    It is log2 of the channel's largest input to the power of `strength` over its largest weight to the
    power of `1 - strength` (SmoothQuant, equation 4), minus that of the median channel, rounded. Layers that take the same inputs get the same exponents, so
    that graphs divide and round them once.

    Args:
        layers: by the names of their weights.
        run: makes the calls.
        strength: 0 evens out the weights of the channels, 1 their inputs.
    """
    linear: dict[str, Any] = {n: each for n, each in layers.items() if isinstance(each, nn.Linear)}
    largest: dict[str, Tensor] = {}

    def see(name: str, taken: Tensor, _made: Tensor) -> None:
        size = taken.abs().reshape(-1, taken.shape[-1]).amax(dim=0).float()
        largest[name] = torch.maximum(largest.get(name, size), size)

    with torch.no_grad(), watched(linear, see):
        run()
    found: dict[str, tuple[int, ...]] = {}
    for names in _alike(largest):
        weights = [linear[name].weight.detach().float().abs().amax(dim=0) for name in names]
        exponents = _exponents(largest[names[0]], torch.stack(weights).amax(dim=0), strength)
        found |= dict.fromkeys(names, exponents)
    return found


def _alike(largest: Mapping[str, Tensor]) -> Iterable[list[str]]:
    """Names of layers in groups: those with the same largest input in every channel take the same inputs."""
    groups: dict[bytes, list[str]] = {}
    for name, size in largest.items():
        groups.setdefault(size.numpy(force=True).tobytes(), []).append(name)
    return groups.values()


def _exponents(inputs: Tensor, weights: Tensor, strength: float) -> tuple[int, ...]:
    """The exponents for the largest inputs and weights `[in]`; 0 for a channel that lacks either."""
    wanted = strength * inputs.log2() - (1 - strength) * weights.log2()
    is_finite = wanted.isfinite()
    if not is_finite.any():
        return ()
    rounded = (
        (wanted - wanted[is_finite].median()).round().clamp(-LARGEST_EXPONENT, LARGEST_EXPONENT)
    )
    found = torch.where(is_finite, rounded, 0.0).int().tolist()
    return tuple(found) if any(found) else ()
