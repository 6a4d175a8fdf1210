"""The ranges of the layers' inputs on the calls that a SubNet really makes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from search.core.quantisation import TINY, Layer
from search.quantise.layers import watched
from search.quantise.ranges import Ranges
from search.quantise.rounded import round_inputs
from search.quantise.smoothing import divided, find_exponents, multiplied

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from torch import Tensor, nn

    from search.core.quantisation import Scheme

SAMPLED = 2**14
"""At most about this many values of a tensor are used for its quantiles."""

TAIL = 1e-4
"""The fraction of a call's values that PERCENTILE leaves out at either end."""

BINS = 2**11
"""Of the histogram of a layer's inputs, for MSE: eight per step of int8 over the whole range, four over half."""
LIMITS = tuple(1 - number / 40 for number in range(21))
"""Where MSE may cut off, as fractions of the largest absolute input."""


@dataclass
class _Seen:
    """One layer: the input range of each call, and the multiply-accumulates of all calls."""

    lows: list[float] = field(default_factory=list)
    highs: list[float] = field(default_factory=list)
    macs: float = 0.0


def calibrate(
    layers: Mapping[str, nn.Module],
    names: Iterable[str],
    run: Callable[[], object],
    *,
    scheme: Scheme,
    ranges: Ranges = Ranges.MINMAX,
    smoothing: float | None = None,
) -> dict[str, Layer]:
    """The inputs' ranges and the share of the work of each named layer that `run` calls.

    `run` is called once, once more for MSE, and once more for smoothing.

    Args:
        layers: of the denoiser, by the names of their weights.
        names: of the layers to watch.
        run: makes the calls, the same ones whenever it is called.
        scheme: whose grid MSE rounds to.
        ranges: how a range is taken from the values seen.
        smoothing: strength of the exponents (`find_exponents`); None: there are none.
    """
    watched_layers = {name: layers[name] for name in names}
    exponents = {} if smoothing is None else find_exponents(watched_layers, run, smoothing)
    smoothed = {name: Layer(exponents=exponents.get(name, ())) for name in watched_layers}
    seen = {name: _Seen() for name in watched_layers}

    def see(name: str, taken: Tensor, made: Tensor) -> None:
        low, high = _range(divided(taken, smoothed[name]), ranges)
        seen[name].lows.append(low)
        seen[name].highs.append(high)
        weights = watched_layers[name].weight
        assert isinstance(weights, torch.Tensor)
        seen[name].macs += made.numel() * weights[0].numel()

    with torch.no_grad(), watched(watched_layers, see):
        run()
    called = {name: each for name, each in seen.items() if each.lows}
    total = sum(each.macs for each in called.values()) or 1.0
    found = {
        name: replace(
            smoothed[name], low=min(each.lows), high=max(each.highs), share=each.macs / total
        )
        for name, each in called.items()
    }
    return _cut(layers, found, run, scheme) if ranges is Ranges.MSE else found


def _range(tensor: Tensor, ranges: Ranges) -> tuple[float, float]:
    if ranges is not Ranges.PERCENTILE:
        low, high = tensor.aminmax()
        return float(low), float(high)
    flat = tensor.flatten().float()
    some = flat[:: max(1, flat.numel() // SAMPLED)]
    low, high = torch.quantile(some, torch.tensor([TAIL, 1 - TAIL], device=some.device))
    return float(low), float(high)


def _cut(
    layers: Mapping[str, nn.Module],
    found: Mapping[str, Layer],
    run: Callable[[], object],
    scheme: Scheme,
) -> dict[str, Layer]:
    """`found`, whose ranges cover all values, with ranges of least squared error instead."""
    histograms = {name: torch.zeros(BINS, dtype=torch.float64) for name in found}
    costs = {name: costs_of(layers[name], layer) for name, layer in found.items()}

    def see(name: str, taken: Tensor, _made: Tensor) -> None:
        layer = found[name]
        width = max(layer.high - layer.low, TINY) / BINS
        place = ((divided(taken, layer).float() - layer.low) / width).long().clamp(0, BINS - 1)
        cost = costs[name].expand_as(place)
        histograms[name] += torch.bincount(place.flatten(), cost.flatten(), BINS).cpu()

    with torch.no_grad(), watched({name: layers[name] for name in found}, see):
        run()
    return {
        name: _with_least_error(layer, histograms[name], scheme) for name, layer in found.items()
    }


def costs_of(module: nn.Module, layer: Layer) -> Tensor:
    """What a squared error in each input channel costs the outputs: its squared weights, summed.

    Shaped `[in]`, or `[in, 1, ...]` for a convolution.
    """
    assert isinstance(module.weight, torch.Tensor)
    weights, groups = (
        multiplied(module.weight.detach(), layer).double(),
        getattr(module, "groups", 1),
    )
    rows, channels, *kernel = weights.shape
    squares = weights.reshape(groups, rows // groups, channels, -1).square().sum(dim=(1, 3))
    return squares.reshape(-1, *[1 for _ in kernel])


def _with_least_error(layer: Layer, histogram: Tensor, scheme: Scheme) -> Layer:
    """The layer with the range of least squared error; both ends are cut off at the same absolute value.

    Args:
        layer: with the range of all values.
        histogram: of the inputs, weighted by their costs, in bins of equal width over that range.
        scheme: whose grid is rounded to.
    """
    width, largest = (layer.high - layer.low) / BINS, max(-layer.low, layer.high)
    values = layer.low + width * (torch.arange(BINS) + 0.5)

    def cut(limit: float) -> Layer:
        low, high = (
            min(max(x, -limit * largest), limit * largest) for x in (layer.low, layer.high)
        )
        return replace(layer, low=low, high=high)

    def error(candidate: Layer) -> float:
        grid = scheme.grid_of(candidate.low, candidate.high)
        rounded = round_inputs(values, grid, scheme)
        return float(((rounded - values).double().square() * histogram).sum())

    return min((cut(limit) for limit in LIMITS), key=error)
