"""BNS, bespoke non-stationary solvers (arXiv 2403.01329): all coefficients and times optimised.

Reproduced from its paper: the solver begins as the scheduler's own with as many steps, and the coefficients of the
input and the six newest predictions of each row, and all times but the first, are optimised on the error of the final
latents. There is no placement.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from search.core.errors import SearchError
from search.frontier.candidate import Candidate
from search.frontier.series import Series

if TYPE_CHECKING:
    from search.frontier.calibration import Calibration
    from search.frontier.series import Report


def _make(calibration: Calibration, report: Report) -> list[Candidate]:
    from search.fitting.recipe import subnet_of
    from search.fitting.refine import refine
    from search.fitting.scheduled import scheduled

    effort, whole = calibration.effort, calibration.whole
    fitted_on, held_out = calibration.fitted_on, calibration.chosen_by
    found = []
    for keep, count in calibration.counts().items():
        own = scheduled(calibration.pipeline, whole, held_out=held_out, count=count)
        if own is None:
            msg = (
                f"{whole.binding.scheduler} has no {count} steps of its own among the full sampler's; "
                "leave bns out"
            )
            raise SearchError(msg)

        iterations = effort.iterations_of(count)

        def tell(
            iteration: int, error: float, keep: float = keep, iterations: int = iterations
        ) -> None:
            report(
                f"bns: keep {keep:g}, iteration {iteration} of {iterations}, error {error:.4f}",
                iteration / iterations,
            )

        schedule = effort.schedule(count, iterations, calibration.settings.seed)
        placed = refine(fitted_on, held_out, own, schedule, progress=tell)
        subnet = subnet_of(whole, fitted_on, placed, f"bns keep {keep:g}")
        assert subnet.fitted is not None
        found.append(
            Candidate(BNS, f"keep {keep:g}", keep, subnet, subnet.fitted.table, is_fitted=True)
        )
    return found


BNS = Series("bns", "BNS", "#884ea0", "8", _make, options=("iterations",), fits_itself=True)
