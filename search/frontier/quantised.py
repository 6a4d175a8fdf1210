"""The SubNets of a frontier once more, with a denoiser that rounds."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from search.core.quantisation import scheme_named
from search.quantise.recipe import QuantiseEffort, quantise

if TYPE_CHECKING:
    from collections.abc import Callable

    from search.frontier.calibration import Calibration
    from search.frontier.candidate import Candidate

MOST_PICTURES = 16
"""To calibrate with; more change the ranges little."""


def quantised_too(
    calibration: Calibration, candidate: Candidate, scheme: str, report: Callable[..., None]
) -> Candidate:
    """The same gates with every layer quantised and the rows fitted to that.

    Raises:
        SearchError: there is no layer to quantise.
    """
    found = quantise(
        calibration.pipeline,
        calibration.whole,
        candidate.subnet,
        calibration.prompts,
        scheme=scheme_named(scheme),
        effort=QuantiseEffort(
            min(MOST_PICTURES, calibration.effort.fitted_on), seed=calibration.settings.seed
        ),
        report=report,
    )
    table = calibration.pipeline.sampler_of(found.subnet)
    return replace(candidate, subnet=found.subnet, table=table, is_fitted=True, plan=found.recorded)
