"""What is compared: SubNets of every method at every keep, with plain and with fitted samplers."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from search.core.errors import SearchError
from search.core.sampler import FittedSampler
from search.core.subnet import Granularity
from search.core.table import keep_of
from search.dipgo.paper import run_paper
from search.dipgo.recipe import PAPER
from search.fitting.fit import PICTURES, final_latents, fit_sampler
from search.fitting.recipe import Effort, place_calls
from search.fitting.trajectories import sample_both
from search.frontier.points import SLACK
from search.frontier.series import (
    CARVE,
    DEEPCACHE,
    DIP_GO,
    DPM_SOLVER,
    FEWER_STEPS,
    HOLD,
    HOLD_SPACED,
    RANDOM,
    Series,
)
from search.frontier.spacing import spacings, uniform
from search.methods import schedules
from search.methods.fewer_steps import fewer_steps
from search.methods.full import full
from search.methods.options import Options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from search.core.sampler import SamplerTable
    from search.core.subnet import SubNet
    from search.dipgo.records import DipGoProgress
    from search.fitting.trajectories import Trajectories
    from search.frontier.settings import FrontierSettings
    from search.model.pipeline import Pipeline

    Report = Callable[..., None]

DPM_SCHEDULER = "DPMSolverMultistepScheduler"


@dataclass(frozen=True)
class Candidate:
    """One SubNet to be evaluated.

    Attributes:
        method: what made it.
        label: tells it from others of the method.
        keep: what it was made for; None where the cost is what it is.
        subnet: its gates and, if it brings one, its sampler.
        table: the rows it runs with, over its steps.
        is_fitted: whether the rows were calibrated.
    """

    method: Series
    label: str
    keep: float | None
    subnet: SubNet
    table: SamplerTable
    is_fitted: bool = False


@dataclass(frozen=True)
class Calibration:
    """The calibration data of the candidates; the held-out pictures are not part of it.

    Attributes:
        pipeline: with its weights loaded and the full sampler's scheduler.
        settings: of the comparison.
        prompts: to search and calibrate with.
        whole: the full sampler at branch granularity.
        table: the full sampler.
        fitted_on: runs of the full sampler, all pictures in one call.
        chosen_by: other such runs.
    """

    pipeline: Pipeline
    settings: FrontierSettings
    prompts: tuple[str, ...]
    whole: SubNet
    table: SamplerTable
    fitted_on: Trajectories
    chosen_by: Trajectories

    def error(self, subnet: SubNet, table: SamplerTable) -> float:
        """Mean relative L2 of the final latents of the calibration pictures."""
        found = final_latents(self.pipeline, subnet, table, self.fitted_on)
        return float(self.fitted_on.error(found).mean())

    def counts(self) -> dict[float, int]:
        """Per keep, the whole calls it pays for."""
        calls = self.whole.full_calls
        return {keep: int(keep * calls + SLACK) for keep in self.settings.keeps}


def prepare(
    pipeline: Pipeline,
    settings: FrontierSettings,
    prompts: Sequence[str],
    report: Report,
) -> Calibration:
    """Trace the denoiser and run the full sampler on the calibration prompts.

    Raises:
        SearchError: a keep pays for no call.
    """
    report("trace the denoiser")
    whole = full(pipeline, _options(settings, Granularity.BRANCH))
    least = min(settings.keeps)
    if least * whole.full_calls < 1 - SLACK:
        msg = f"--keep {least} of {whole.full_calls} calls is less than one call; keep more"
        raise SearchError(msg)
    fitted_on, chosen_by = sample_both(
        pipeline,
        whole,
        prompts,
        fitted_on=PICTURES,
        held_out=PICTURES,
        reference_steps=None,
        seed=settings.seed,
        report=report,
    )
    return Calibration(
        pipeline=pipeline,
        settings=settings,
        prompts=tuple(prompts),
        whole=whole,
        table=pipeline.sampler(whole.binding.grid, pipeline.size(whole.binding.noise_shape)),
        fitted_on=fitted_on.first_pictures(PICTURES),
        chosen_by=chosen_by.first_pictures(PICTURES),
    )


def make_plain(calibration: Calibration, method: Series, report: Report) -> list[Candidate]:
    """The candidates of a method, before anything is fitted to them (carve fits its own).

    Raises:
        SearchError: the method cannot be used here.
    """
    return _MAKERS[method](calibration, report)


def fitted(calibration: Calibration, candidate: Candidate) -> Candidate:
    """The same gates with a fitted sampler, or with the old one where fitting does not help."""
    fit = fit_sampler(
        calibration.pipeline,
        candidate.subnet,
        candidate.table,
        fitted_on=calibration.fitted_on,
        held_out=calibration.chosen_by,
    )
    table = candidate.table if fit.subnet.fitted is None else fit.subnet.fitted.table
    return replace(candidate, subnet=fit.subnet, table=table, is_fitted=True)


def _carve(calibration: Calibration, report: Report) -> list[Candidate]:
    settings = calibration.settings
    effort = Effort.of(settings.pictures, settings.iterations)
    found = place_calls(
        calibration.pipeline,
        calibration.whole,
        settings.keeps,
        calibration.prompts,
        effort=effort,
        seed=settings.seed,
        report=report,
    )
    return [
        Candidate(CARVE, f"keep {keep:g}", keep, subnet, subnet.fitted.table, is_fitted=True)
        for keep, subnet in zip(settings.keeps, found, strict=True)
        if subnet.fitted is not None
    ]


def _dip_go(calibration: Calibration, report: Report) -> list[Candidate]:
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
        full(calibration.pipeline, _options(settings, Granularity.STAGE)),
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


def _deepcache(calibration: Calibration, report: Report) -> list[Candidate]:
    """Every branch and every number of full steps; what costs more than the largest keep is left out."""
    whole, largest = calibration.whole, max(calibration.settings.keeps)
    branches = schedules.deepcache_branches(whole.topology.blocks)
    intervals: dict[int, int] = {}
    for interval in range(2, whole.steps + 1):
        intervals.setdefault(len(range(0, whole.steps, interval)), interval)
    found: dict[Any, Candidate] = {}
    for branch in branches:
        report(f"deepcache: branch {branch}", branch / len(branches))
        for interval in intervals.values():
            subnet = schedules.deepcache(whole, interval=interval, branch=branch)
            if subnet.actions not in found and keep_of(subnet) <= largest + SLACK:
                label = f"interval {interval} branch {branch}"
                found[subnet.actions] = Candidate(DEEPCACHE, label, None, subnet, calibration.table)
    return list(found.values())


def _fewer_steps(calibration: Calibration, report: Report) -> list[Candidate]:
    del report
    return _few_steps_of(calibration, FEWER_STEPS)


def _dpm_solver(calibration: Calibration, report: Report) -> list[Candidate]:
    del report
    if calibration.whole.binding.scheduler == DPM_SCHEDULER:
        msg = "the full sampler is DPM-Solver++ itself, so this is what fewer-steps is"
        raise SearchError(msg)
    with scheduler(calibration.pipeline, DPM_SCHEDULER):
        return _few_steps_of(calibration, DPM_SOLVER)


def _few_steps_of(calibration: Calibration, method: Series) -> list[Candidate]:
    """Candidates of the pipeline's present scheduler."""
    found = []
    for keep in calibration.settings.keeps:
        subnet = fewer_steps(calibration.pipeline, calibration.whole, keep)
        subnet = replace(subnet, method=f"{method} keep {keep:g}")
        size = calibration.pipeline.size(subnet.binding.noise_shape)
        table = calibration.pipeline.sampler(subnet.binding.grid, size)
        found.append(Candidate(method, f"keep {keep:g}", keep, subnet, table))
    return found


def _hold(calibration: Calibration, report: Report) -> list[Candidate]:
    del report
    return [
        Candidate(
            HOLD,
            f"keep {keep:g}",
            keep,
            *holding(
                calibration.whole,
                calibration.table,
                uniform(calibration.whole.steps, count),
                "hold evenly",
            ),
        )
        for keep, count in calibration.counts().items()
    ]


def _hold_spaced(calibration: Calibration, report: Report) -> list[Candidate]:
    found = []
    for keep, count in calibration.counts().items():
        tried: list[tuple[float, str, SubNet, SamplerTable]] = []
        choices = spacings(calibration.whole.steps, count)
        for number, (name, steps) in enumerate(choices.items()):
            report(f"hold-spaced: keep {keep:g}, {name}", number / len(choices))
            subnet, table = holding(calibration.whole, calibration.table, steps, f"hold {name}")
            tried.append((calibration.error(subnet, table), name, subnet, table))
        if tried:
            _, name, subnet, table = min(tried, key=lambda each: each[0])
            label = f"keep {keep:g} {name}"
            found.append(Candidate(HOLD_SPACED, label, keep, subnet, table))
    return found


def _random(calibration: Calibration, report: Report) -> list[Candidate]:
    settings = calibration.settings
    found = []
    for keep in settings.keeps:
        tried = []
        for number in range(settings.random):
            report(f"random: keep {keep:g}, table {number + 1}", number / settings.random)
            seed = settings.random * settings.seed + number
            subnet = schedules.random_within(calibration.whole, keep=keep, seed=seed)
            tried.append((calibration.error(subnet, calibration.table), subnet))
        _, best = min(tried, key=lambda each: each[0])
        found.append(Candidate(RANDOM, f"keep {keep:g}", keep, best, calibration.table))
    return found


_MAKERS: dict[Series, Callable[[Calibration, Report], list[Candidate]]] = {
    CARVE: _carve,
    DIP_GO: _dip_go,
    DEEPCACHE: _deepcache,
    FEWER_STEPS: _fewer_steps,
    DPM_SOLVER: _dpm_solver,
    HOLD: _hold,
    HOLD_SPACED: _hold_spaced,
    RANDOM: _random,
}


def holding(
    whole: SubNet, table: SamplerTable, active: Sequence[int], name: str
) -> tuple[SubNet, SamplerTable]:
    """Call at the steps in `active` only; the others hold the last prediction.

    The steps without a call vanish into the rows, so that the prediction itself is held even where
    the denoiser's last layers read the timestep. The rows are the scheduler's, only summed.

    Args:
        whole: runs everything.
        table: of its sampler.
        active: increasing step numbers, the first of which is 0.
        name: for people.
    """
    origins = [max(step for step in active if step <= here) for here in range(whole.steps)]
    merged = table.merge(origins, active)
    timesteps = tuple(whole.timesteps[step] for step in active)
    subnet = replace(
        whole,
        actions=whole.actions[:1] * len(active),
        fitted=FittedSampler(timesteps, merged),
        method=f"{name}, {len(active)} calls",
    )
    return subnet, merged


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


def _options(settings: FrontierSettings, granularity: Granularity) -> Options:
    return Options(
        steps=settings.steps,
        guidance=settings.guidance,
        granularity=granularity,
        seed=settings.seed,
    )
