"""The ranges of the layers' inputs on the calls that a SubNet really makes."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from search.core.quantisation import TINY, Layer, Quantisation
from search.model.current_step import current_step
from search.quantise.layers import watched
from search.quantise.ranges import Ranges
from search.quantise.rounded import round_inputs
from search.quantise.smoothing import divided, find_exponents, multiplied
from search.quantise.spans import split

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

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
    """One layer: the input ranges of its calls by step, and the multiply-accumulates of all calls."""

    ranges: defaultdict[int, list[tuple[float, float]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    macs: float = 0.0

    def range(self, steps: Iterable[int]) -> tuple[float, float]:
        """Over the calls of these steps; infinite, the low end above the high one, if there are none."""
        found = [each for step in steps for each in self.ranges.get(step, ())]
        return (
            min((low for low, _ in found), default=float("inf")),
            max((high for _, high in found), default=float("-inf")),
        )


def calibrate(
    layers: Mapping[str, nn.Module],
    names: Iterable[str],
    run: Callable[[], object],
    *,
    scheme: Scheme,
    ranges: Ranges = Ranges.MINMAX,
    smoothing: float | None = None,
    spans: int = 1,
) -> Quantisation:
    """The plan for all named layers that `run` calls, with their inputs' ranges and shares of the work.

    `run` is called once, once more for MSE, and once more for smoothing.

    Args:
        layers: of the denoiser, by the names of their weights.
        names: of the layers to watch.
        run: makes the calls of a gated denoiser, the same ones whenever it is called.
        scheme: of the numbers; MSE rounds to its grid.
        ranges: how a range is taken from the values seen.
        smoothing: strength of the exponents (`find_exponents`); None: there are none.
        spans: of steps, each with ranges of its own; fewer if there are fewer calls.
    """
    watched_layers = {name: layers[name] for name in names}
    exponents = {} if smoothing is None else find_exponents(watched_layers, run, smoothing)
    smoothed = {name: Layer(exponents=exponents.get(name, ())) for name in watched_layers}
    seen = {name: _Seen() for name in watched_layers}

    def see(name: str, taken: Tensor, made: Tensor) -> None:
        seen[name].ranges[current_step()].append(_range(divided(taken, smoothed[name]), ranges))
        weights = watched_layers[name].weight
        assert isinstance(weights, torch.Tensor)
        seen[name].macs += made.numel() * weights[0].numel()

    with torch.no_grad(), watched(watched_layers, see):
        run()
    called = {name: each for name, each in seen.items() if each.ranges}
    total = sum(each.macs for each in called.values()) or 1.0
    steps = sorted({step for each in called.values() for step in each.ranges})
    starts = _starts(called.values(), steps, spans) if called else ()
    found = {
        name: _with_ranges(
            replace(smoothed[name], share=each.macs / total),
            [each.range(span) for span in np.split(steps, np.searchsorted(steps, starts))],
        )
        for name, each in called.items()
    }
    plan = Quantisation(scheme, found, starts=starts)
    return _cut(layers, plan, run) if ranges is Ranges.MSE else plan


def _starts(seen: Iterable[_Seen], steps: Sequence[int], spans: int) -> tuple[int, ...]:
    """The first steps of all spans but the first."""
    ends = np.array([[each.range([step]) for step in steps] for each in seen])
    return tuple(steps[call] for call in split(ends[..., 0], ends[..., 1], spans))


def _with_ranges(layer: Layer, ranges: Sequence[tuple[float, float]]) -> Layer:
    """The layer with a range per span; one that is not called in a span has there that of all others."""
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    spans = tuple(each if each[0] <= each[1] else (low, high) for each in ranges)
    return replace(layer, low=low, high=high, spans=spans if len(spans) > 1 else ())


def _range(tensor: Tensor, ranges: Ranges) -> tuple[float, float]:
    if ranges is not Ranges.PERCENTILE:
        low, high = tensor.aminmax()
        return float(low), float(high)
    flat = tensor.flatten().float()
    some = flat[:: max(1, flat.numel() // SAMPLED)]
    low, high = torch.quantile(some, torch.tensor([TAIL, 1 - TAIL], device=some.device))
    return float(low), float(high)


def _cut(
    layers: Mapping[str, nn.Module], plan: Quantisation, run: Callable[[], object]
) -> Quantisation:
    """`plan`, whose ranges cover all values, with ranges of least squared error instead."""
    ranges = [plan.at(span).layers for span in range(plan.spans)]
    histograms = [
        {name: torch.zeros(BINS, dtype=torch.float64) for name in each} for each in ranges
    ]
    costs = {name: costs_of(layers[name], layer) for name, layer in plan.layers.items()}

    def see(name: str, taken: Tensor, _made: Tensor) -> None:
        span = plan.span_of(current_step())
        layer = ranges[span][name]
        width = max(layer.high - layer.low, TINY) / BINS
        place = ((divided(taken, layer).float() - layer.low) / width).long().clamp(0, BINS - 1)
        cost = costs[name].expand_as(place)
        histograms[span][name] += torch.bincount(place.flatten(), cost.flatten(), BINS).cpu()

    with torch.no_grad(), watched({name: layers[name] for name in plan.layers}, see):
        run()
    found = {
        name: _with_ranges(
            layer,
            [
                _with_least_error(each[name], histogram[name], plan.scheme)
                for each, histogram in zip(ranges, histograms, strict=True)
            ],
        )
        for name, layer in plan.layers.items()
    }
    return replace(plan, layers=found)


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


def _with_least_error(layer: Layer, histogram: Tensor, scheme: Scheme) -> tuple[float, float]:
    """The range of least squared error; both ends are cut off at the same absolute value.

    Args:
        layer: with the range of all values.
        histogram: of the inputs, weighted by their costs, in bins of equal width over that range.
        scheme: whose grid is rounded to.
    """
    width, largest = (layer.high - layer.low) / BINS, max(-layer.low, layer.high)
    values = layer.low + width * (torch.arange(BINS) + 0.5)

    def cut(limit: float) -> tuple[float, float]:
        low, high = (
            min(max(x, -limit * largest), limit * largest) for x in (layer.low, layer.high)
        )
        return low, high

    def error(candidate: tuple[float, float]) -> float:
        grid = scheme.grid_of(*candidate)
        rounded = round_inputs(values, grid, scheme)
        return float(((rounded - values).double().square() * histogram).sum())

    return min((cut(limit) for limit in LIMITS), key=error)
