"""What all series of a frontier choose and fit by: the same pictures."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from search.core.errors import SearchError
from search.core.subnet import Granularity
from search.core.table import whole_count
from search.fitting.effort import Effort
from search.fitting.fit import final_latents, fit_sampler
from search.fitting.placed import overall
from search.fitting.trajectories import sample_both
from search.frontier.candidate import SLACK
from search.methods.options import Options
from search.methods.whole import full

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from search.core.sampler import SamplerTable
    from search.core.subnet import SubNet
    from search.fitting.trajectories import Trajectories
    from search.frontier.candidate import Candidate
    from search.frontier.settings import FrontierSettings
    from search.model.pipeline import Pipeline

    Report = Callable[..., None]

TRIED_ON = 12
"""Calibration pictures that settings of one method are compared on, at most."""


@dataclass(frozen=True)
class Calibration:
    """The calibration data of the candidates; the held-out pictures are not part of it.

    Attributes:
        pipeline: with its weights loaded and the full sampler's scheduler.
        settings: of the comparison.
        prompts: to search and calibrate with.
        whole: the full sampler at branch granularity.
        table: the full sampler.
        fitted_on: runs of the sampler to come close to, which rows are fitted to.
        chosen_by: other such runs.
    """

    pipeline: Pipeline
    settings: FrontierSettings
    prompts: tuple[str, ...]
    whole: SubNet
    table: SamplerTable
    fitted_on: Trajectories
    chosen_by: Trajectories

    @cached_property
    def layers(self) -> SubNet:
        """The full sampler at layer granularity."""
        return full(self.pipeline, options_of(self.settings, Granularity.LAYER))

    @cached_property
    def together(self) -> tuple[Trajectories, Trajectories]:
        """`fitted_on` and `chosen_by` in one call each, since gates remember one batch."""
        return (
            self.fitted_on.first_pictures(len(self.fitted_on.noise)),
            self.chosen_by.first_pictures(len(self.chosen_by.noise)),
        )

    @cached_property
    def few(self) -> Trajectories:
        """The pictures that settings are compared on."""
        return self.chosen_by.first_pictures(min(TRIED_ON, len(self.chosen_by.noise)))

    def error(self, candidate: Candidate) -> float:
        """Its `overall` error of the final latents on a few calibration pictures."""
        found = final_latents(
            self.pipeline, candidate.subnet, candidate.table, self.few, unguided=candidate.unguided
        )
        return float(overall(self.few.error(found)))

    def best(self, tries: Iterable[Candidate]) -> Candidate:
        """The one with the least error on a few calibration pictures; a single one needs none."""
        found = list(tries)
        return found[0] if len(found) == 1 else min(found, key=self.error)

    def counts(self) -> dict[float, int]:
        """Per keep, the whole calls it pays for."""
        calls = self.whole.full_calls
        return {keep: whole_count(keep, calls) for keep in self.settings.keeps}

    @property
    def effort(self) -> Effort:
        """Of whatever is refined, the same for all."""
        return Effort.of(self.settings.pictures, self.settings.iterations)


def prepare(
    pipeline: Pipeline,
    settings: FrontierSettings,
    prompts: Sequence[str],
    report: Report,
) -> Calibration:
    """Trace the denoiser and run the sampler to come close to on the calibration prompts.

    Raises:
        SearchError: a keep pays for no call.
    """
    report("trace the denoiser")
    whole = full(pipeline, options_of(settings, Granularity.BRANCH))
    least = min(settings.keeps)
    if least * whole.full_calls < 1 - SLACK:
        msg = f"--keep {least} of {whole.full_calls} calls is less than one call; raise --keep"
        raise SearchError(msg)
    effort = Effort.of(settings.pictures, settings.iterations)
    fitted_on, chosen_by = sample_both(
        pipeline,
        whole,
        prompts,
        fitted_on=effort.fitted_on,
        held_out=effort.held_out,
        reference_steps=settings.reference_steps,
        seed=settings.seed,
        report=report,
    )
    return Calibration(
        pipeline=pipeline,
        settings=settings,
        prompts=tuple(prompts),
        whole=whole,
        table=pipeline.sampler(whole.binding.grid, pipeline.size(whole.binding.noise_shape)),
        fitted_on=fitted_on,
        chosen_by=chosen_by,
    )


def fitted(calibration: Calibration, candidate: Candidate) -> Candidate:
    """The same gates with a fitted sampler, or with the old one where fitting does not help."""
    fitted_on, held_out = calibration.together
    fit = fit_sampler(
        calibration.pipeline,
        candidate.subnet,
        candidate.table,
        fitted_on=fitted_on,
        held_out=held_out,
    )
    table = candidate.table if fit.subnet.fitted is None else fit.subnet.fitted.table
    return replace(candidate, subnet=fit.subnet, table=table, is_fitted=True)


@contextmanager
def scheduler(
    pipeline: Pipeline, name: str | None, options: Mapping[str, Any] | None = None
) -> Iterator[None]:
    """While open, the pipeline has this scheduler with these settings; None is the present class."""
    before = pipeline.scheduler_choice
    try:
        if name is not None or options:
            pipeline.use_scheduler(name, options)
        yield
    finally:
        pipeline.use_scheduler(before.cls, before.options)


def options_of(settings: FrontierSettings, granularity: Granularity) -> Options:
    """Those of the full sampler."""
    return Options(
        steps=settings.steps,
        guidance=settings.guidance,
        granularity=granularity,
        seed=settings.seed,
    )
