"""The searches of the registry: carve and DiP-GO."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search.core.granularity import Granularity
from search.frontier.candidate import Candidate
from search.frontier.series import Series
from search.methods import carve, dip_go

if TYPE_CHECKING:
    from search.dipgo.records import DipGoProgress
    from search.frontier.calibration import Calibration
    from search.frontier.series import Report


def _carve(calibration: Calibration, report: Report) -> list[Candidate]:
    from search.fitting.recipe import place_calls

    settings = calibration.settings
    found = place_calls(
        calibration.pipeline,
        calibration.layers,
        settings.keeps,
        calibration.prompts,
        effort=calibration.effort,
        reference_steps=settings.reference_steps,
        runs=(calibration.fitted_on, calibration.chosen_by),
        seed=settings.seed,
        report=report,
    )
    return [
        Candidate(CARVE, f"keep {keep:g}", keep, subnet, subnet.fitted.table, is_fitted=True)
        for keep, subnet in zip(settings.keeps, found, strict=True)
        if subnet.fitted is not None
    ]


def _dip_go(calibration: Calibration, report: Report) -> list[Candidate]:
    from search.dipgo.paper import run_paper
    from search.dipgo.recipe import PAPER
    from search.frontier.calibration import options_of
    from search.methods.whole import full

    settings = calibration.settings
    recipe = PAPER.shortened(settings.dip_go_iterations)

    def tell(each: DipGoProgress) -> None:
        done = each.iteration + 1
        report(
            f"dip-go: iteration {done} of {recipe.iterations}, keep {each.keep:.3f}",
            done / recipe.iterations,
        )

    found = run_paper(
        calibration.pipeline,
        full(calibration.pipeline, options_of(settings, Granularity.STAGE)),
        settings.keeps,
        prompts=calibration.prompts,
        seed=settings.seed,
        recipe=recipe,
        progress=tell,
    )
    return [
        Candidate(DIP_GO, f"keep {keep:g}", keep, subnet, calibration.table)
        for keep, subnet in zip(settings.keeps, found, strict=True)
    ]


CARVE = Series(
    carve.METHOD.name,
    "carve",
    "#c0392b",
    "*",
    _carve,
    options=("iterations",),
    fits_itself=True,
)
DIP_GO = Series(
    dip_go.METHOD.name, "DiP-GO", "#7d3c98", "P", _dip_go, options=("dip-go-iterations",)
)
