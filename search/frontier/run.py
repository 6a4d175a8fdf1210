"""From pipeline to frontier: make the candidates, evaluate them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search.core.errors import SearchError
from search.core.liveness import unroll
from search.frontier.calibration import fitted, prepare, scheduler
from search.frontier.points import Frontier, Point
from search.frontier.quality import fine_steps, sample_held_out
from search.frontier.quantised import quantised_too
from search.methods.prompts import split_prompts
from search.model.pictures import require_no_pictures
from search.quantise.size import weights_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from search.frontier.calibration import Calibration
    from search.frontier.candidate import Candidate
    from search.frontier.quality import HeldOut
    from search.frontier.settings import FrontierSettings
    from search.model.pipeline import Pipeline

    Report = Callable[..., None]


def run_frontier(
    pipeline: Pipeline,
    settings: FrontierSettings,
    *,
    report: Report = lambda _text, _share=None: None,
) -> Frontier:
    """Search, fit and evaluate everything that `settings` names.

    Args:
        pipeline: with its weights loaded, and the scheduler it came with.
        settings: what to compare.
        report: called with a message and the completed fraction.

    Raises:
        SearchError: settings that do not fit the pipeline, or no method that can be used with it.
    """
    require_no_pictures(pipeline.pipe, "frontier")
    prompts = split_prompts(
        pipeline,
        search=settings.prompts,
        evaluate=settings.held_out,
    )
    with scheduler(pipeline, settings.scheduler, dict(settings.scheduler_options)):
        calibration = prepare(pipeline, settings, prompts[0], report)
        held_out = sample_held_out(pipeline, calibration.whole, prompts[1], settings, report)
        candidates, notes = _make(calibration, report)
        candidates, refused = _in_few_bits(calibration, candidates, report)
        points = _evaluate(held_out, candidates, report)
        reference = None
        if settings.judge is not None:
            reference = "real pictures" if settings.features else "the full sampler, other noise"
        return Frontier(
            pipeline=str(pipeline.path),
            settings=settings,
            whole=calibration.whole,
            fine_steps=fine_steps(pipeline, calibration.whole, settings),
            prompts=prompts,
            reference=reference,
            full=held_out.examine_full(),
            points=points,
            notes=(*notes, *refused),
        )


def _make(calibration: Calibration, report: Report) -> tuple[list[Candidate], tuple[str, ...]]:
    """All candidates, and why there are none of some methods."""
    plain: list[Candidate] = []
    notes = []
    for method in calibration.settings.methods:
        report(str(method))
        try:
            made = method.make(calibration, report)
        except SearchError as error:
            notes.append(f"{method} is left out: {error}")
        else:
            plain.extend(made)
    if not plain:
        msg = f"nothing can be compared: {'; '.join(notes) or 'no method made a SubNet'}"
        raise SearchError(msg)
    found = []
    for number, candidate in enumerate(plain):
        found.append(candidate)
        if not candidate.method.fits_itself and not candidate.unguided:
            report(f"fit: {candidate.method} {candidate.label}", number / len(plain))
            found.append(fitted(calibration, candidate))
    return found, tuple(notes)


def _in_few_bits(
    calibration: Calibration, candidates: list[Candidate], report: Report
) -> tuple[list[Candidate], tuple[str, ...]]:
    """The candidates, after each that is fitted the same in every precision asked for; and why some are not."""
    found: list[Candidate] = []
    notes = []
    for each in candidates:
        found.append(each)
        if each.unguided or not (each.is_fitted or each.method.fits_itself):
            continue
        for scheme in calibration.settings.precisions:
            report(f"{scheme}: {each.method} {each.label}")
            try:
                found.append(quantised_too(calibration, each, scheme, report))
            except SearchError as error:
                notes.append(f"{each.method} {each.label} in {scheme} is left out: {error}")
    return found, tuple(notes)


def _evaluate(held_out: HeldOut, candidates: list[Candidate], report: Report) -> tuple[Point, ...]:
    """Each candidate on the held-out pictures; a fit without effect is not evaluated again."""
    points: list[Point] = []
    for number, each in enumerate(candidates):
        report(f"evaluate: {each.method} {each.label}", number / len(candidates))
        if points and each.is_fitted and not each.plan and points[-1].subnet is each.subnet:
            quality = points[-1].quality
        else:
            quality = held_out.examine(each.subnet, each.table, each.unguided, each.plan)
        points.append(
            Point(
                method=each.method,
                label=each.label,
                keep=each.keep,
                is_fitted=each.is_fitted,
                cost=each.cost,
                calls=len(unroll(each.subnet).calls),
                quality=quality,
                subnet=None if each.unguided else each.subnet,
                plan=each.plan,
                weights_bytes=weights_bytes(held_out.pipeline, each.plan),
            )
        )
    return tuple(points)
