"""Steps chosen by annealing on the error of the final latents, at an exact number of calls.

As BudCache (ICML 2026) chooses them, and much as LeMiCa (NeurIPS 2025) and MeanCache (ICLR 2026) do. At the
other steps the last prediction is held, or the residual of the whole stack of blocks is added again.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from search.foreign.mask_file import StepMask
from search.foreign.tables import adding_residuals
from search.frontier.candidate import SLACK, Candidate, require_any
from search.frontier.rivals.holding import held
from search.frontier.series import Series
from search.frontier.spacing import uniform

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from search.frontier.calibration import Calibration
    from search.frontier.series import Report

    Steps = tuple[int, ...]

HOT, COLD = 0.3, 0.01
"""Temperatures, of the logarithm of the error, at the beginning and the end."""


def _mask(calibration: Calibration, report: Report) -> list[Candidate]:
    return [
        _annealed(calibration, count, report, lambda s, k=keep: held(calibration, STEP_MASK, k, s))  # type: ignore[misc]
        for keep, count in calibration.counts().items()
    ]


def _budcache(calibration: Calibration, report: Report) -> list[Candidate]:
    found, least = list[Candidate](), 1.0
    for keep, most in calibration.counts().items():
        for count in range(most, 0, -1):
            even = _residuals(calibration, keep, uniform(calibration.whole.steps, count))
            least = min(least, even.cost)
            if even.cost <= keep + SLACK:
                made = _annealed(
                    calibration,
                    count,
                    report,
                    lambda s, k=keep: _residuals(calibration, k, s),  # type: ignore[misc]
                )
                found.append(made)
                break
    return require_any(BUDCACHE, found, least)


def _residuals(calibration: Calibration, keep: float, steps: Sequence[int]) -> Candidate:
    """All blocks run at these steps; at the others their residual is added."""
    whole = calibration.whole
    mask = StepMask(tuple(step in steps for step in range(whole.steps)), first=0, last=0)
    subnet = adding_residuals(whole, mask, f"budcache {len(steps)} calls")
    return Candidate(BUDCACHE, f"keep {keep:g}", keep, subnet, calibration.table)


def _annealed(
    calibration: Calibration, count: int, report: Report, made: Callable[[Steps], Candidate]
) -> Candidate:
    settings, total = calibration.settings, calibration.whole.steps
    known: dict[Steps, float] = {}

    def error(steps: Steps) -> float:
        if steps not in known:
            known[steps] = calibration.error(made(steps))
            report(f"{count} calls: mask {len(known)}, error {min(known.values()):.4f}")
        return known[steps]

    return made(anneal(uniform(total, count), total, error, settings.random, settings.seed))


def anneal(
    start: Steps, total: int, error: Callable[[Steps], float], tries: int, seed: int
) -> Steps:
    """The best of `tries` sets of as many steps of `total` as `start`; step 0 stays.

    One step moves at a time, over ever shorter distances. A worse set is taken with the probability
    (error / worse error) ^ (1 / temperature).
    """
    random = np.random.default_rng(seed)
    now = best = start
    for number in range(1, tries):
        share = number / max(1, tries - 1)
        temperature = HOT * (COLD / HOT) ** share
        moved = _neighbour(now, total, max(1, round(total / len(start) * (1 - share))), random)
        if math.log(error(moved) / error(now)) < -temperature * math.log(random.random()):
            now = moved
        best = min(best, now, key=error)
    return best


def _neighbour(steps: Steps, total: int, reach: int, random: np.random.Generator) -> Steps:
    """The same with one step but the first moved to a free place at most `reach` away, if there is one."""
    places = [
        (old, new)
        for old in steps[1:]
        for new in range(max(1, old - reach), min(total, old + reach + 1))
        if new not in steps
    ]
    if not places:
        return steps
    old, new = places[random.integers(len(places))]
    return tuple(sorted({*steps} - {old} | {new}))


STEP_MASK = Series(
    "step-mask", "annealed steps, prediction held", "#a04000", "x", _mask, options=("random",)
)
BUDCACHE = Series(
    "budcache", "annealed steps, residual held", "#6e2c00", "+", _budcache, options=("random",)
)
