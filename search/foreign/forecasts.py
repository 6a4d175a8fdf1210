"""Predictions that are forecast from earlier ones, as rows over those that are computed. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from search.core.sampler import SamplerTable

    Row = NDArray[np.float64]
    """Over what is known and the computed predictions."""
    Forecast = Callable[[int, Sequence[Row], Sequence[Row]], Row]
    """Of a step: from the latents before each step so far, and the predictions before it, its own."""


def with_forecasts(
    table: SamplerTable, computes: Sequence[bool], forecast: Forecast
) -> SamplerTable:
    """The table of the computed steps, where the other predictions are what `forecast` makes.

    Args:
        table: one row per step.
        computes: per step, whether its prediction is computed.
        forecast: a linear combination of the rows that it is given.
    """
    import numpy as np

    known, calls = table.known, [step for step, computed in enumerate(computes) if computed]
    identity = np.eye(known + len(calls))
    latents: list[Row] = []
    predictions: list[Row] = []

    def combined(row: Row) -> Row:
        found: Row = row[:known] @ identity[:known]
        for weight, prediction in zip(row[known:], predictions, strict=False):
            found = found + weight * prediction
        return found

    for step, row in enumerate(table.inputs):
        latents.append(combined(row))
        predictions.append(
            identity[known + calls.index(step)]
            if computes[step]
            else forecast(step, latents, predictions)
        )
    return replace(
        table, inputs=np.stack([latents[step] for step in calls]), final=combined(table.final)
    )


def taylor_weights(computes: Sequence[bool], step: int) -> tuple[float, float]:
    """What the last and the last but one computed value count in a forecast of first order.

    A single one is held.
    """
    previous, last = _last_two(computes, step)
    slope = (step - last) / (last - previous) if previous < last else 0.0
    return 1 + slope, -slope


def _last_two(computes: Sequence[bool], step: int) -> tuple[int, int]:
    """The last two computed steps before a step; twice the same where there is one."""
    known = [each for each in range(step) if computes[each]]
    return known[-2:][0], known[-1]


def taylor(computes: Sequence[bool]) -> Forecast:
    """TaylorSeer's: the line through the last two computed predictions; a single one is held."""

    def forecast(step: int, latents: Sequence[Row], predictions: Sequence[Row]) -> Row:
        del latents
        previous, last = _last_two(computes, step)
        weights = taylor_weights(computes, step)
        return weights[0] * predictions[last] + weights[1] * predictions[previous]

    return forecast


def mean_velocity(sigmas: Sequence[float], orders: Sequence[int]) -> Forecast:
    """MeanCache's: the last velocity, moved along its slope over the last steps.

    v = v_last - (v_start - u) / (s_now - s_start) * (s_next - s_now), where u is the mean velocity from
    the start of these steps, at which the latents are known, until now.

    Args:
        sigmas: at each step and at the end.
        orders: per step, over how many of the last steps the slope is taken; 1 holds the velocity.
    """

    def forecast(step: int, latents: Sequence[Row], predictions: Sequence[Row]) -> Row:
        start = step - min(orders[step], step)
        span, ahead = sigmas[step] - sigmas[start], sigmas[step + 1] - sigmas[step]
        mean = (latents[step] - latents[start]) / span
        return predictions[-1] - (predictions[start] - mean) / span * ahead

    return forecast
