"""Where to split the steps into spans, so that a layer's inputs have narrow ranges in each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from search.core.quantisation import TINY

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]


def split(lows: Array, highs: Array, count: int) -> tuple[int, ...]:
    """The first call of each span but the first, so that the squared widths of the ranges are least.

    A rounding error is proportional to the width of its range. All layers count alike: a layer's squared width
    in a span is relative to that over all calls. The best split is found by dynamic programming.

    Args:
        lows: smallest input `[layers, calls]`; infinite where a call leaves out the layer.
        highs: largest, likewise.
        count: of the spans; there are no more than calls.
    """
    calls = lows.shape[1]
    cost = {
        (start, end): _cost(lows, highs, start, end)
        for start in range(calls)
        for end in range(start + 1, calls + 1)
    }
    best: dict[int, tuple[float, tuple[int, ...]]] = {
        end: (cost[0, end], ()) for end in range(1, calls + 1)
    }
    for number in range(2, min(count, calls) + 1):
        best = {
            end: min(
                (best[start][0] + cost[start, end], (*best[start][1], start))
                for start in range(number - 1, end)
            )
            for end in range(number, calls + 1)
        }
    return best[calls][1]


def _cost(lows: Array, highs: Array, start: int, end: int) -> float:
    """Squared widths of these calls' common ranges, summed over layers and calls."""
    part: Any = np.s_[:, start:end]
    called = np.isfinite(lows[part]).sum(axis=1)
    width = np.where(called > 0, _width(lows[part], highs[part]), 0.0)
    return float((called * (width / _width(lows, highs)) ** 2).sum())


def _width(lows: Array, highs: Array) -> Array:
    """Of the ranges of the layers `[layers]`, which hold zero."""
    low = np.minimum(lows.min(axis=1), 0.0)
    high = np.maximum(highs.max(axis=1), 0.0)
    found: Array = np.maximum(high - low, TINY)
    return found
