"""The method carve: few calls, placed through the fit, then refined, and thinned; see docs/recipe.md."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from search.core.errors import SearchError
from search.core.table import keep_of, whole_count, with_rows
from search.fitting.effort import COMPARED, USUAL, Effort, thin_count
from search.fitting.half_calls import MORE, HalfCalls, gated_runs, unconditional_calls
from search.fitting.paired import can_pair, paired
from search.fitting.placed import assess, best_of
from search.fitting.records import CarveRun
from search.fitting.scaled import fitted_sampler
from search.fitting.scheduled import karras_positions, scheduled, scheduled_positions
from search.fitting.target import Target
from search.fitting.thin import placed_of, thin_calls
from search.fitting.thinning import SLACK
from search.fitting.whole_calls import Refinement, search_calls, starts_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from search.core.sampler import ScaleRange
    from search.core.subnet import SubNet
    from search.core.table import Cost
    from search.fitting.half_calls import Halved
    from search.fitting.placed import Placed
    from search.fitting.trajectories import Trajectories
    from search.model.pipeline import Pipeline


def place_calls(
    pipeline: Pipeline,
    full: SubNet,
    keeps: Sequence[float],
    prompts: Sequence[str],
    *,
    effort: Effort = USUAL,
    thin: bool = True,
    cost: Cost = keep_of,
    reference_steps: int | None = None,
    scales: ScaleRange | None = None,
    runs: tuple[Trajectories, Trajectories] | None = None,
    seed: int = 0,
    folder: Path | None = None,
    resume: bool = False,
    report: Callable[..., None] = lambda _text, _share=None: None,
) -> list[SubNet]:
    """One SubNet per keep: as many calls as its budget allows, with fitted timesteps and rows.

    Args:
        pipeline: with its weights loaded and the scheduler of `full`.
        full: runs everything: blocks, sampler, guidance.
        keeps: fractions of the full sampler's cost, largest allowed.
        prompts: to calibrate on, repeated with other noise if they are few.
        effort: how much work to do.
        thin: also try more calls, of which some leave out the negative prompt or blocks, and rows of both
            halves of guidance.
        cost: of a SubNet, as a fraction of the full sampler's; decides how many blocks those are.
        reference_steps: inference steps of the sampler to come close to; None is the full sampler's.
        scales: the range of guidance scales that rows are for; None: that of `full` alone.
        runs: of that sampler, to fit to and to choose by, if they are there already.
        seed: of the noise.
        folder: for the log, its plot and finished SubNets; None writes nothing.
        resume: take finished SubNets from `folder`.
        report: called with a message and the completed fraction.

    Raises:
        SearchError: a keep pays for no call.
    """
    counts = {keep: _calls(keep, full.full_calls) for keep in keeps}
    target = Target(pipeline, full, prompts, effort, reference_steps, scales, seed)
    run = None
    if folder is not None:
        measured = {} if cost is keep_of else {"cost": getattr(cost, "name", "latency")}
        run = CarveRun(folder, target.identity() | measured)
        run.start(resume=resume)
    halves = thin and bool(unconditional_calls(full.topology))
    search = _Search(target, cost, report, run, runs, halves=halves)
    tried = {keep for keep in keeps if thin and thin_count(keep, full.full_calls)}
    search.counts |= {*counts.values(), *(counts[keep] + 1 for keep in tried)}
    if search.halves:
        search.counts |= {more for count in counts.values() for more in search.more_than(count)}
    found = {keep: search.best(keep, count, thin=keep in tried) for keep, count in counts.items()}
    return [replace(found[keep], method=f"carve keep {keep:g}") for keep in keeps]


@dataclass
class _Search:
    """What all keeps of a search share; see `place_calls`.

    Attributes:
        target: what it comes close to.
        cost: of a SubNet, as a fraction of the full sampler's.
        report: called with a message and the completed fraction.
        run: where finished SubNets are kept; None: nowhere.
        given: runs to fit to and to choose by, if they are there already.
        halves: whether calls without the negative prompt are tried.
        counts: numbers of whole calls that are wanted.
        made: what is finished, by name.
    """

    target: Target
    cost: Cost
    report: Callable[..., None]
    run: CarveRun | None
    given: tuple[Trajectories, Trajectories] | None
    halves: bool = False
    counts: set[int] = field(default_factory=set)
    made: dict[str, SubNet] = field(default_factory=dict)

    @cached_property
    def runs(self) -> tuple[Trajectories, Trajectories]:
        """To fit to, and to choose by."""
        return self.given or self.target.sampled(self.report)

    @cached_property
    def starts(self) -> dict[int, list[list[float]]]:
        """Per number of calls, where they may be."""
        runs = self.runs[0]
        found = starts_of(runs, sorted(self.counts), self.report)
        for count, starts in found.items():
            karras = karras_positions(self.target.pipeline, self.target.full, runs, count)
            starts += [] if karras is None else [karras]
        return found

    def whole(self, count: int) -> SubNet:
        """That many whole calls."""

        def make(refinement: Refinement) -> SubNet:
            fitted_on, held_out = self.runs
            plain = scheduled(
                self.target.pipeline, self.target.full, held_out=held_out, count=count
            )
            self.report(f"{count} calls: {len(self.starts[count])} starts")
            placed = search_calls(self.starts[count], plain, refinement)
            return subnet_of(self.target.full, fitted_on, placed)

        return self._once(
            f"calls-{count}", f"{count} calls", self.target.effort.iterations_of(count), make
        )

    def whole_or_half(self, keep: float, count: int) -> SubNet:
        """That many whole calls, or more of which some are without the negative prompt."""
        fewer = self.whole(count)
        if not self.halves:
            return fewer

        def make(refinement: Refinement) -> SubNet:
            chosen = self._halved(keep, count)
            if chosen is None:
                return fewer
            calls = chosen.whole.steps
            self.report(f"{calls} calls: {chosen.halves}")
            runs = refinement.fitted_on, refinement.held_out
            with gated_runs(self.target.pipeline, chosen.whole, chosen.subnet, *runs) as gated:
                fitted_on, held_out = gated
                placed = search_calls(
                    self._starts(calls),
                    None,
                    replace(refinement, fitted_on=fitted_on, held_out=held_out),
                )
            if placed.error >= self._error(fewer):
                return fewer
            return replace(chosen.subnet, fitted=fitted_sampler(runs[0], placed))

        name, label = f"calls-{count}-halves-keep-{keep:g}", f"more calls than {count}"
        return self._once(name, label, self.target.effort.iterations_of(count), make)

    def best(self, keep: float, count: int, *, thin: bool) -> SubNet:
        """Whole, half or thin calls, with rows of both halves of guidance if these are better."""
        found = self.or_thin(keep, count) if thin else self.whole_or_half(keep, count)
        if not self.halves or not can_pair(found.topology):
            return found

        def make(refinement: Refinement) -> SubNet:
            fitted_on, held_out = self.runs
            pairs = paired(self.target.full, found, held_out)
            if self.cost(pairs.subnet) > keep + SLACK:
                return found
            self.report(f"{found.steps} calls: rows of both halves of guidance")
            with gated_runs(self.target.pipeline, pairs.whole, pairs.subnet, *self.runs) as gated:
                few, others = gated
                own = pairs.evaluated(others)
                start = pairs.fitted(few, others)
                refinement = replace(refinement, fitted_on=few, held_out=others)
                placed = refinement.best(own, start)
            if placed.error >= own.error:
                return found
            return replace(pairs.subnet, fitted=fitted_sampler(fitted_on, placed))

        name, label = f"calls-{count}-pairs-keep-{keep:g}", f"rows of both halves, keep {keep:g}"
        return self._once(name, label, self.target.effort.iterations_of(count) // 2, make)

    def more_than(self, count: int) -> range:
        """The numbers of calls that half calls may pay for."""
        return range(count + 1, min(count + MORE, self.target.full.full_calls) + 1)

    def _halved(self, keep: float, count: int) -> Halved | None:
        """More calls of which some are half calls, if they are better than `count` whole ones."""
        fitted_on, held_out = (runs.some(COMPARED) for runs in self.runs)

        def placed(count: int) -> Placed:
            return best_of(*(assess(fitted_on, held_out, each) for each in self._starts(count)))

        own = scheduled(self.target.pipeline, self.target.full, held_out=held_out, count=count)
        error = best_of(*(each for each in (placed(count), own) if each is not None)).error
        whole = (subnet_of(self.target.full, fitted_on, placed(n)) for n in self.more_than(count))
        return HalfCalls(self.target.pipeline, keep, self.cost, fitted_on, held_out).chosen(
            whole, error
        )

    def _starts(self, count: int) -> list[list[float]]:
        """Where that many calls may be; at last the scheduler's own steps."""
        own = scheduled_positions(self.target.pipeline, self.target.full, self.runs[0], count)
        return [*self.starts[count], *([] if own is None else [own])]

    def or_thin(self, keep: float, count: int) -> SubNet:
        """`whole_or_half`, or one call more with blocks left out."""
        fewer, more = self.whole_or_half(keep, count), self.whole(count + 1)

        def make(refinement: Refinement) -> SubNet:
            error = self._error(fewer)
            thin = thin_calls(self.target.pipeline, more, keep, refinement, self.report, self.cost)
            return fewer if thin is None or thin.error >= error else thin.subnet

        name, label = f"calls-{count}-keep-{keep:g}", f"{count + 1} thin calls"
        return self._once(name, label, self.target.effort.iterations_of(count) // 2, make)

    def _error(self, subnet: SubNet) -> float:
        """Of held-out pictures."""
        whole = with_rows(subnet, self.target.full.actions[:1] * subnet.steps)
        with gated_runs(self.target.pipeline, whole, subnet, self.runs[1]) as (held_out,):
            return placed_of(subnet, held_out).error

    def _once(
        self, name: str, label: str, iterations: int, make: Callable[[Refinement], SubNet]
    ) -> SubNet:
        """What `make` makes, or made in an earlier run."""
        if self.run is not None and name not in self.made:
            earlier = self.run.finished(name)
            self.made |= {} if earlier is None else {name: earlier}
        if name in self.made:
            return self.made[name]

        def tell(iteration: int, error: float) -> None:
            if self.run is not None:
                self.run.log(name, iteration, error)
            text = f"{label}: iteration {iteration} of {iterations}, error {error:.4f}"
            self.report(text, iteration / iterations)

        refinement = Refinement(*self.runs, self.target.effort, iterations, self.target.seed, tell)
        self.made[name] = make(refinement)
        if self.run is not None:
            self.run.save(name, self.made[name])
        return self.made[name]


def subnet_of(
    full: SubNet, runs: Trajectories, placed: Placed, method: str | None = None
) -> SubNet:
    """The SubNet of placed whole calls; `method` says what made it, for people."""
    return replace(
        full,
        actions=full.actions[:1] * len(placed.positions),
        method=full.method if method is None else method,
        fitted=fitted_sampler(runs, placed),
    )


def _calls(keep: float, full_calls: int) -> int:
    count = whole_count(keep, full_calls)
    if count < 1:
        msg = f"--keep {keep} of {full_calls} calls is less than one call; keep more"
        raise SearchError(msg)
    return count
