"""The ranges of the layers' inputs on the calls that a SubNet really makes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from search.core.quantisation import Layer
from search.quantise.layers import watched
from search.quantise.ranges import Ranges

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from torch import Tensor, nn

SAMPLED = 2**14
"""At most about this many values of a tensor are used for its quantiles."""

TAIL = 1e-4
"""The fraction of a call's values that PERCENTILE leaves out at either end."""


@dataclass
class _Seen:
    """One layer: the input range of each call, and the multiply-accumulates of all calls."""

    lows: list[float] = field(default_factory=list)
    highs: list[float] = field(default_factory=list)
    macs: float = 0.0


def calibrate(
    layers: Mapping[str, nn.Module], names: Iterable[str], run: Callable[[], object], ranges: Ranges
) -> dict[str, Layer]:
    """The inputs' ranges and the share of the work of each named layer that `run` calls.

    Args:
        layers: of the denoiser, by the names of their weights.
        names: of the layers to watch.
        run: makes the calls.
        ranges: how a range is taken from the values seen.
    """
    watched_layers = {name: layers[name] for name in names}
    seen = {name: _Seen() for name in watched_layers}

    def see(name: str, taken: Tensor, made: Tensor) -> None:
        low, high = _range(taken, ranges)
        seen[name].lows.append(low)
        seen[name].highs.append(high)
        weights = watched_layers[name].weight
        assert isinstance(weights, torch.Tensor)
        seen[name].macs += made.numel() * weights[0].numel()

    with torch.no_grad(), watched(watched_layers, see):
        run()
    called = {name: each for name, each in seen.items() if each.lows}
    total = sum(each.macs for each in called.values()) or 1.0
    return {
        name: Layer(min(each.lows), max(each.highs), each.macs / total)
        for name, each in called.items()
    }


def _range(tensor: Tensor, ranges: Ranges) -> tuple[float, float]:
    if ranges is Ranges.MINMAX:
        low, high = tensor.aminmax()
        return float(low), float(high)
    flat = tensor.flatten().float()
    some = flat[:: max(1, flat.numel() // SAMPLED)]
    low, high = torch.quantile(some, torch.tensor([TAIL, 1 - TAIL], device=some.device))
    return float(low), float(high)
