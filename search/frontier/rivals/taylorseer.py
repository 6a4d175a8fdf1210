"""TaylorSeer (arXiv 2503.06923) at fixed intervals: of the whole prediction, and of every block's output.

"Lite" is what OpenVINO GenAI ships: the first 6 and the last 2 steps are computed, and in between the
whole prediction is forecast along the line through the last two. With blocks, every attention and
feed-forward output is forecast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from search.core.errors import SearchError
from search.core.table import keep_of
from search.foreign.forecasts import taylor
from search.foreign.samplers import forecasting
from search.foreign.tables import forecasting_layers
from search.foreign.taylorseer_file import TaylorSeer
from search.frontier.candidate import SLACK, Candidate, require_any
from search.frontier.rivals.branches import branches
from search.frontier.series import Series

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from search.core.subnet import SubNet
    from search.frontier.calibration import Calibration
    from search.frontier.series import Report

FIRST, LAST = 6, 2
"""Steps that OpenVINO GenAI computes at either end."""
WARM = 3
"""Steps that diffusers computes at first."""


def _lite(calibration: Calibration, report: Report) -> list[Candidate]:
    del report

    def made(interval: int) -> SubNet:
        settings = TaylorSeer(interval, before=FIRST, after=-LAST, first=interval - 1)
        computes = settings.computes(calibration.whole.steps)
        name = f"taylorseer lite interval {interval}"
        return forecasting(calibration.whole, calibration.table, computes, taylor(computes), name)

    return within(calibration, TAYLORSEER_LITE, made)


def _blocks(calibration: Calibration, report: Report) -> list[Candidate]:
    del report
    layers = calibration.layers
    chosen = branches(layers, TAYLORSEER)

    def made(interval: int) -> SubNet:
        settings = TaylorSeer(interval, before=WARM, after=None, first=1)
        return forecasting_layers(layers, chosen, settings)

    return within(calibration, TAYLORSEER, made)


def within(
    calibration: Calibration, series: Series, made: Callable[[int], SubNet]
) -> list[Candidate]:
    """Per keep, the smallest interval whose table costs no more.

    Raises:
        SearchError: no interval is cheap enough for any keep, or none leaves anything out.
    """
    found, cost = list[Candidate](), 1.0
    left = sorted(calibration.settings.keeps, reverse=True)
    for interval, subnet in _each(calibration.whole.steps, made):
        cost = min(cost, keep_of(subnet))
        while left and cost <= left[0] + SLACK:
            keep = left.pop(0)
            table = calibration.table if subnet.fitted is None else subnet.fitted.table
            label = f"keep {keep:g} interval {interval}"
            found.append(Candidate(series, label, keep, subnet, table))
        if not left:
            break
    return require_any(series, found, cost)


def _each(steps: int, made: Callable[[int], SubNet]) -> Iterator[tuple[int, SubNet]]:
    """The tables of all intervals that leave something out."""
    refusals, some = list[SearchError](), False
    for interval in range(2, steps):
        try:
            subnet = made(interval)
        except SearchError as error:
            refusals.append(error)
        else:
            some = True
            yield interval, subnet
    if refusals and not some:
        raise refusals[0]


TAYLORSEER_LITE = Series("taylorseer-lite", "TaylorSeer Lite", "#cb4335", "<", _lite)
TAYLORSEER = Series("taylorseer", "TaylorSeer, every block", "#943126", ">", _blocks)
