"""Guidance dropped at some of the steps: within an interval only, or extrapolated without the negative prompt.

Guidance within an interval is arXiv 2404.07724: outside of it the prediction with the prompt stands alone,
which is half of the work. In arXiv 2312.12487 (LinearAG) the prediction without the prompt is
extrapolated from its own earlier ones. More steps pay for what is saved.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from search.core.actions import Action
from search.core.errors import SearchError
from search.core.table import with_actions
from search.foreign.forecasts import taylor_weights
from search.frontier.candidate import SLACK, Candidate, require_any
from search.frontier.rivals.solvers import few_steps
from search.frontier.series import Series

if TYPE_CHECKING:
    from collections.abc import Iterator

    from search.core.subnet import SubNet
    from search.frontier.calibration import Calibration
    from search.frontier.series import Report

SHARES = (0.2, 0.4, 0.6, 0.8)
"""Of the steps, how many may be without guidance."""
BEGINNINGS = (0.0, 0.25)
"""Of those, how many are the noisiest ones; the others are the last."""
UNCOND = "uncond"


def _interval(calibration: Calibration, report: Report) -> list[Candidate]:
    if not calibration.whole.binding.guided:
        msg = "the denoiser makes one prediction, so there is no guidance to drop; leave guidance-interval out"
        raise SearchError(msg)
    return _best(calibration, GUIDANCE_INTERVAL, report)


def _extrapolated(calibration: Calibration, report: Report) -> list[Candidate]:
    if UNCOND not in calibration.whole.topology.streams:
        msg = (
            "both predictions are made in one call of the denoiser, so none can be left out alone; leave "
            "guidance-extrapolated out"
        )
        raise SearchError(msg)
    return _best(calibration, EXTRAPOLATED_GUIDANCE, report)


def _best(calibration: Calibration, series: Series, report: Report) -> list[Candidate]:
    found, least = list[Candidate](), 1.0
    for keep in calibration.settings.keeps:
        report(f"{series}: keep {keep:g}")
        cheap = [
            each
            for share in SHARES
            for each in _dropping(calibration, series, keep, share)
            if each.cost <= keep + SLACK
        ]
        found += [calibration.best(cheap)] if cheap else []
        least = min([least, *(each.cost for each in cheap)])
    return require_any(series, found, least)


def _dropping(
    calibration: Calibration, series: Series, keep: float, share: float
) -> Iterator[Candidate]:
    """As many steps as the keep pays for if `share` of them have no guidance."""
    calls = calibration.whole.full_calls
    count = min(calls, int(keep * calls / (1 - share / 2) + 1e-9))
    if count < 1:
        return
    few = few_steps(calibration, series, keep, f"{count} steps", part=count / calls)
    steps = few.subnet.steps
    dropped = max(1, math.ceil(2 * (steps - keep * calls) - 1e-9))
    if dropped > steps:
        return
    if series is GUIDANCE_INTERVAL:
        for beginning in BEGINNINGS:
            first = round(dropped * beginning)
            unguided = frozenset(range(first)) | frozenset(range(steps - dropped + first, steps))
            label = f"{few.label}, guidance from {first} to {steps - dropped + first}"
            yield replace(few, label=label, unguided=unguided)
        return
    for action in (Action.REUSE, Action.FORECAST):
        if steps - dropped < 2:
            continue
        subnet = _without(few.subnet, dropped, action)
        label = f"{few.label}, the last {dropped} {action.value.lower()}"
        yield replace(few, label=label, subnet=subnet)


def _without(subnet: SubNet, dropped: int, action: Action) -> SubNet:
    """At the last `dropped` steps, `action` in the place of the prediction without the prompt."""
    block = subnet.topology.blocks.index(UNCOND)
    runs = [step < subnet.steps - dropped for step in range(subnet.steps)]
    made = with_actions(
        subnet,
        lambda step, b: action if b == block and not runs[step] else Action.RUN,
        method=f"guidance {action.value.lower()} at the last {dropped} of {subnet.steps} steps",
    )
    weights = tuple((step, b, taylor_weights(runs, step)) for step, b, _ in made.coefficients)
    return replace(made, coefficients=weights)


GUIDANCE_INTERVAL = Series(
    "guidance-interval", "guidance within an interval", "#7b7d7d", "3", _interval
)
EXTRAPOLATED_GUIDANCE = Series(
    "guidance-extrapolated", "guidance extrapolated at the end", "#626567", "4", _extrapolated
)
