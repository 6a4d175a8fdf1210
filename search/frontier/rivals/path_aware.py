"""DPCache (CVPR 2026): the steps by dynamic programming over pairs of calls, Taylor forecasts between them.

Reproduced from its description: the cost of a segment depends on the call before it as well, because the
forecast reads both. Here the whole prediction is forecast, so the result is rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from search.foreign.forecasts import taylor
from search.foreign.samplers import forecasting
from search.frontier.candidate import Candidate
from search.frontier.rivals.times import on_grid
from search.frontier.series import Series

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from search.frontier.calibration import Calibration
    from search.frontier.series import Report


def _make(calibration: Calibration, report: Report) -> list[Candidate]:
    report("dpcache: the cost of every segment")
    _, predictions = on_grid(calibration, calibration.fitted_on)
    cost = segment_costs(predictions)
    found = []
    for keep, count in calibration.counts().items():
        steps = cheapest_pairs(cost, count)
        found.append(forecast_candidate(calibration, DPCACHE, keep, steps))
    return found


def segment_costs(predictions: NDArray[np.float64]) -> NDArray[np.float64]:
    """`[T, T, T + 1]`: what it costs to forecast from calls at i <= j until k.

    The error of a segment is the sum over its steps of the forecast's relative error; i = j stands for
    a single call, whose prediction is held.

    Args:
        predictions: of each step, `[T, D]`.
    """
    total = len(predictions)
    gram = predictions @ predictions.T
    cost = np.full((total, total, total + 1), np.inf)
    for j in range(total):
        later = np.arange(j + 1, total)
        for i in range(j + 1):
            slope = (later - j) / (j - i) if i < j else np.zeros(len(later))
            a, b = 1 + slope, -slope
            square = (
                a * a * gram[j, j] + b * b * gram[i, i] + np.diag(gram)[later]
                + 2 * a * b * gram[i, j] - 2 * a * gram[j, later] - 2 * b * gram[i, later]
            )  # fmt: skip
            error = np.sqrt(np.maximum(square, 0) / np.maximum(np.diag(gram)[later], 1e-30))
            cost[i, j, j + 1 :] = np.concatenate([[0], np.cumsum(error)])
    return cost


def cheapest_pairs(cost: NDArray[np.float64], count: int) -> list[int]:
    """The `count` steps from 0 on with the least sum of costs over (call before, call, next call or end)."""
    steps = len(cost)
    total = np.full((steps, steps), np.inf)  # by the last two calls
    total[0, 0] = 0
    origins = []
    for _ in range(count - 1):
        sums = total[:, :, None] + cost[:, :, :steps]
        origins.append(sums.argmin(axis=0))
        total = sums.min(axis=0)
    ends = total + cost[:, :, steps]
    before, last = np.unravel_index(int(ends.argmin()), ends.shape)
    path = [int(last)]
    for origin in reversed(origins):
        path.append(int(before))
        before = origin[before, path[-2]]
    return path[::-1]


def forecast_candidate(
    calibration: Calibration, series: Series, keep: float, steps: Sequence[int], name: str = ""
) -> Candidate:
    """The candidate that calls at these steps and forecasts the other predictions along a line."""
    computes = [step in steps for step in range(calibration.whole.steps)]
    subnet = forecasting(
        calibration.whole, calibration.table, computes, taylor(computes), f"{series} {name}".strip()
    )
    assert subnet.fitted is not None
    return Candidate(series, f"keep {keep:g} {name}".strip(), keep, subnet, subnet.fitted.table)


DPCACHE = Series("dpcache", "steps as DPCache places them", "#2e86c1", "H", _make)
