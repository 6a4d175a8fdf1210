"""Whole steps of the full sampler held: evenly, or with the best of simple spacings."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from search.core.sampler import FittedSampler
from search.frontier.candidate import Candidate
from search.frontier.series import Series
from search.frontier.spacing import spacings, uniform

if TYPE_CHECKING:
    from collections.abc import Sequence

    from search.core.sampler import SamplerTable
    from search.core.subnet import SubNet
    from search.frontier.calibration import Calibration
    from search.frontier.series import Report


def holding(
    whole: SubNet, table: SamplerTable, active: Sequence[int], name: str
) -> tuple[SubNet, SamplerTable]:
    """Call at the steps in `active` only; the others hold the last prediction.

    The steps without a call vanish into the rows, so that the prediction itself is held even where
    the denoiser's last layers read the timestep. The rows are the scheduler's, only summed. A sampler
    of first order, such as DDIM or Euler, then takes longer steps between the timesteps in `active`.

    Args:
        whole: runs everything.
        table: of its sampler.
        active: increasing step numbers, the first of which is 0.
        name: for people.
    """
    origins = [max(step for step in active if step <= here) for here in range(whole.steps)]
    merged = table.merge(origins, active)
    return calling(whole, [whole.timesteps[step] for step in active], merged, name), merged


def calling(whole: SubNet, timesteps: Sequence[float], table: SamplerTable, name: str) -> SubNet:
    """Whole calls at these timesteps, with rows of their own.

    Args:
        whole: runs everything.
        timesteps: of the calls.
        table: a row per call.
        name: for people.
    """
    return replace(
        whole,
        actions=whole.actions[:1] * len(timesteps),
        fitted=FittedSampler(tuple(timesteps), table),
        method=f"{name}, {len(timesteps)} calls",
    )


def held(
    calibration: Calibration, series: Series, keep: float, steps: Sequence[int], name: str = ""
) -> Candidate:
    """The candidate that calls at these steps of the full sampler and holds in between."""
    subnet, table = holding(calibration.whole, calibration.table, steps, f"{series} {name}".strip())
    return Candidate(series, f"keep {keep:g} {name}".strip(), keep, subnet, table)


def _hold(calibration: Calibration, report: Report) -> list[Candidate]:
    del report
    return [
        held(calibration, HOLD, keep, uniform(calibration.whole.steps, count))
        for keep, count in calibration.counts().items()
    ]


def _hold_spaced(calibration: Calibration, report: Report) -> list[Candidate]:
    found = []
    for keep, count in calibration.counts().items():
        choices = spacings(calibration.whole.steps, count)
        report(f"hold-spaced: keep {keep:g}, {len(choices)} spacings")
        tries = [held(calibration, HOLD_SPACED, keep, s, name) for name, s in choices.items()]
        found += [calibration.best(tries)] if tries else []
    return found


HOLD = Series("hold", "whole steps held, evenly", "#566573", "v", _hold)
"""The full sampler's grid; every n-th step calls, the others hold the last prediction."""
HOLD_SPACED = Series("hold-spaced", "whole steps held, best spacing", "#99a3a4", "^", _hold_spaced)
"""The same with the spacing that does best on the calibration pictures."""
