"""Half calls: calls without the negative prompt, at the beginning and at the end of a sampler."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from search.core.actions import Action
from search.core.table import with_rows
from search.fitting.gated_calls import CHOICES, GatedPredictor, gates_of
from search.fitting.placed import assess
from search.fitting.thinning import SLACK
from search.supernet.supernet import supernet

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from search.core.subnet import SubNet
    from search.core.table import Cost
    from search.core.topology import Topology
    from search.fitting.trajectories import Trajectories
    from search.model.pipeline import Pipeline

INSTEAD = (Action.SKIP, Action.DELTA)
"""At the last half calls: no guidance, or the direction of guidance of the last whole call. The first half calls
are always without guidance."""
MORE = 4
"""The largest number of calls that half calls are to pay for."""


@dataclass(frozen=True)
class Halves:
    """Which calls of a sampler are half calls.

    Attributes:
        first: how many of the first ones.
        last: how many of the last ones.
        instead: the action at the last ones, in place of the calls with the negative prompt.
    """

    first: int = 0
    last: int = 0
    instead: Action = Action.SKIP

    def __str__(self) -> str:
        without = "without guidance"
        at_end = without if self.instead is Action.SKIP else "keep its direction"
        parts = [(self.first, "first", without), (self.last, "last", at_end)]
        return ", ".join(f"the {place} {count} {how}" for count, place, how in parts if count)

    def more(self) -> list[Halves]:
        """The same with one half call more."""
        longer = [self.instead] if self.last else INSTEAD
        return [
            replace(self, first=self.first + 1),
            *(replace(self, last=self.last + 1, instead=instead) for instead in longer),
        ]

    def of(self, whole: SubNet) -> SubNet | None:
        """`whole` with them; None if no whole call is left between them."""
        if self.first + self.last >= whole.steps:
            return None
        guided = [*unconditional_calls(whole.topology)]
        rows = [list(row) for row in whole.actions]
        for call, row in enumerate(rows):
            at_end = call >= whole.steps - self.last
            for block in guided if call < self.first or at_end else ():
                row[block] = self.instead if at_end else Action.SKIP
        return with_rows(whole, rows)


def unconditional_calls(topology: Topology) -> tuple[int, ...]:
    """The blocks that are later calls of a step and can have the prediction of the first in their place."""
    later = topology.later_calls
    return tuple(block for block in topology.based if topology.blocks[block] in later)


@dataclass(frozen=True)
class Halved:
    """Calls of which some are half calls.

    Attributes:
        whole: all of them in full.
        subnet: with half calls.
        halves: which these are.
        error: of held-out pictures, as in `Placed`, with rows in closed form.
    """

    whole: SubNet
    subnet: SubNet
    halves: Halves
    error: float


@dataclass(frozen=True)
class HalfCalls:
    """The choice of half calls for a keep.

    Attributes:
        pipeline: with its weights loaded.
        keep: fraction of the full sampler's cost.
        cost: of a SubNet, as such a fraction.
        fitted_on: runs to fit rows to.
        held_out: other runs, to choose by.
    """

    pipeline: Pipeline
    keep: float
    cost: Cost
    fitted_on: Trajectories
    held_out: Trajectories

    def chosen(self, whole: Iterable[SubNet], error: float) -> Halved | None:
        """The SubNet of `whole`, each of one call more, that half calls make best; None if none is better.

        Args:
            whole: placed calls, all in full.
            error: of as many whole calls as the keep pays for.
        """
        best, halves = None, Halves()
        for subnet in whole:
            found = self._cheaper(subnet, halves)
            if found is None or found.error >= error:
                break
            best, halves, error = found, found.halves, found.error
        return best

    def _cheaper(self, whole: SubNet, halves: Halves) -> Halved | None:
        """`whole` with half calls, more than `halves`, chosen one by one until the keep is met."""
        found: Halved | None = None
        while found is None or self.cost(found.subnet) > self.keep + SLACK:
            tried = [
                Halved(whole, subnet, longer, self._error(whole, subnet))
                for longer in halves.more()
                if (subnet := longer.of(whole)) is not None
            ]
            if not tried:
                return None
            found = min(tried, key=lambda each: each.error)
            halves = found.halves
        return found

    def _error(self, whole: SubNet, subnet: SubNet) -> float:
        fitted = whole.fitted
        assert fitted is not None
        positions = [self.held_out.position_of(time) for time in fitted.timesteps]
        with gated_runs(self.pipeline, whole, subnet, self.fitted_on, self.held_out) as runs:
            few, held_out = runs
            return assess(few, held_out, positions).error


@contextmanager
def gated_runs(
    pipeline: Pipeline, whole: SubNet, subnet: SubNet, *runs: Trajectories
) -> Iterator[tuple[Trajectories, ...]]:
    """While open, these runs are approximated by calls with the gates of `subnet`.

    Args:
        pipeline: with its weights loaded.
        whole: `subnet` with all calls in full; every step is a call.
        subnet: what the calls do.
        runs: of the full sampler.
    """
    with supernet(pipeline, whole, choices=CHOICES) as net:
        gates = gates_of(net, subnet)
        yield tuple(each.by(GatedPredictor(each.predictor, net, gates)) for each in runs)
