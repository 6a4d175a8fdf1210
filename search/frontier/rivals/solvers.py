"""Fewer steps: of the same sampler, and of solvers of higher order with their best spacing.

DPM-Solver++ is arXiv 2211.01095, UniPC arXiv 2302.04867; both are diffusers' own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from search.core.errors import SearchError
from search.frontier.candidate import Candidate
from search.frontier.series import Series
from search.methods.fewer_steps import fewer_steps

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from search.frontier.calibration import Calibration
    from search.frontier.series import Report

DPM_SCHEDULER = "DPMSolverMultistepScheduler"
UNIPC_SCHEDULER = "UniPCMultistepScheduler"
ORDERS = (2, 3)
SPACINGS: Mapping[str, Mapping[str, Any]] = {
    "linspace": {"timestep_spacing": "linspace"},
    "leading": {"timestep_spacing": "leading"},
    "trailing": {"timestep_spacing": "trailing"},
    "karras": {"use_karras_sigmas": True},
    "exponential": {"use_exponential_sigmas": True},
    "beta": {"use_beta_sigmas": True},
    "lu": {"use_lu_lambdas": True},
}
"""What diffusers' schedulers offer; those that one does not have, or not here, are left out."""


def _fewer_steps(calibration: Calibration, report: Report) -> list[Candidate]:
    del report
    return [few_steps(calibration, FEWER_STEPS, keep) for keep in calibration.settings.keeps]


def _dpm_solver(calibration: Calibration, report: Report) -> list[Candidate]:
    return _spaced(calibration, DPM_SOLVER, DPM_SCHEDULER, report)


def _unipc(calibration: Calibration, report: Report) -> list[Candidate]:
    return _spaced(calibration, UNIPC, UNIPC_SCHEDULER, report)


def few_steps(
    calibration: Calibration, series: Series, keep: float, name: str = "", part: float | None = None
) -> Candidate:
    """Fewer steps of the pipeline's present scheduler.

    Args:
        calibration: says of what.
        series: for which.
        keep: that the candidate is for.
        name: of the settings, for people.
        part: of the calls to make; None is `keep`.
    """
    pipeline = calibration.pipeline
    subnet = fewer_steps(pipeline, calibration.whole, keep if part is None else part)
    label = f"keep {keep:g} {name}".strip()
    table = pipeline.sampler(subnet.binding.grid, pipeline.size(subnet.binding.noise_shape))
    return Candidate(series, label, keep, replace(subnet, method=f"{series} {label}"), table)


def _spaced(calibration: Calibration, series: Series, cls: str, report: Report) -> list[Candidate]:
    """Per keep, the order and spacing that do best on the calibration pictures."""
    found = []
    for keep in calibration.settings.keeps:
        report(f"{series}: keep {keep:g}, orders and spacings")
        found.append(calibration.best(_tries(calibration, series, cls, keep)))
    return found


def _tries(calibration: Calibration, series: Series, cls: str, keep: float) -> list[Candidate]:
    found, errors = list[Candidate](), list[str]()
    for order, spacing, options in _settings():
        try:
            with _scheduler(calibration, cls, options):
                made = few_steps(calibration, series, keep, f"order {order} {spacing}")
                made.table.require_fixed()
        except SearchError as error:
            errors.append(str(error))
        else:
            found.append(made)
    if not found:
        raise SearchError(errors[0])
    return found


def _settings() -> Iterator[tuple[int, str, dict[str, Any]]]:
    for order in ORDERS:
        for name, options in SPACINGS.items():
            yield order, name, {"solver_order": order, **options}


def _scheduler(calibration: Calibration, cls: str, options: Mapping[str, Any]) -> Any:
    from search.frontier.calibration import scheduler

    return scheduler(calibration.pipeline, cls, options)


FEWER_STEPS = Series("fewer-steps", "fewer steps, same sampler", "#1e7d4f", "s", _fewer_steps)
DPM_SOLVER = Series(
    "dpm-solver", "DPM-Solver++, best order and spacing", "#d9822b", "D", _dpm_solver
)
UNIPC = Series("unipc", "UniPC, best order and spacing", "#b9770e", "d", _unipc)
