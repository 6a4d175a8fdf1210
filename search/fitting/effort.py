"""How much work a search does."""

from __future__ import annotations

from dataclasses import dataclass, replace

from search.core.table import whole_count
from search.fitting.moves import NEWEST
from search.fitting.refine import Schedule
from search.fitting.trajectories import CHUNK

STARTS = 7
"""Sets of calls that a search begins by comparing."""
ITERATIONS = 8
"""The default number of iterations of the refinement, where calls are few."""
WORTH = 40_000
"""Calls of the denoiser, each for one picture, that the refinement is worth: with more calls, each iteration takes
longer, and less is left to gain."""
REFINED = 2
"""Starts of which the refinement decides which is better, besides the scheduler's own steps."""
COMPARED = 24
"""Pictures that starts are fitted on to be compared."""
PROBED = 8
"""Pictures with which the propagation of errors is measured."""
BACKWARD = 4
"""Cost of a call that is differentiated, and made twice for that, as a multiple of one that is not."""
HALVES = 6
"""Choices of half calls that are compared."""
PROBES = 4
"""Random directions per picture that the effects of blocks are measured along."""
FEW = 8
"""The largest number of thin calls that is tried: among more calls, one more gains less."""
THINNEST = 0.1
"""The largest fraction of the MACs of thin calls that is left out."""


@dataclass(frozen=True)
class Effort:
    """How much work to do.

    Attributes:
        fitted_on: pictures to fit to.
        held_out: other pictures, to choose by.
        work: calls times pictures that differences are taken on, so that few calls, where most is left to
            gain and most depends on chance, see more pictures.
        iterations: of the refinement, per keep; None: see `iterations_of`.
    """

    fitted_on: int = 64
    held_out: int = 32
    work: int = 240
    iterations: int | None = None

    def iterations_of(self, count: int) -> int:
        """Of the refinement of `count` calls; by default fewer where each takes longer."""
        if self.iterations is not None:
            return self.iterations
        return max(1, min(ITERATIONS, round(WORTH / self.calls_of_iteration(count))))

    def schedule(self, count: int, iterations: int, seed: int) -> Schedule:
        """The schedule of a refinement with `count` calls."""
        return Schedule(iterations, max(CHUNK, self.work // count), seed)

    def denoiser_calls(self, full_calls: int, keep: float, *, thin: bool, halves: bool) -> float:
        """About how many calls of the denoiser, each for one picture, a search for `keep` makes.

        Args:
            full_calls: of the full sampler.
            keep: fraction of them.
            thin: whether thin calls are tried.
            halves: whether half calls are tried, and rows of both halves.
        """
        count = max(1, whole_count(keep, full_calls))
        calls = (self.fitted_on + self.held_out) * full_calls + PROBED * 90 + self._whole(count)
        if halves:
            calls += self._halves(count)
        more = thin_count(keep, full_calls) if thin else None
        if more is not None:
            effects = self.fitted_on * more * (1 + PROBES * (BACKWARD - 1))
            calls += self._whole(more) + effects + self._refinement(more) / 2
        return calls

    def _halves(self, count: int) -> float:
        """Half calls that pay for one call more, and rows of both halves, whose steps cost half of a call."""
        more = count + 1
        compared = 2 * min(COMPARED, self.fitted_on) + min(COMPARED, self.held_out)
        chosen = (STARTS + HALVES) * compared * more
        pairs = self.iterations_of(count) // 2 * self.calls_of_iteration(2 * more) / 2
        return chosen + self._refinement(more) + pairs

    def _whole(self, count: int) -> float:
        starts = STARTS * count * (2 * min(COMPARED, self.fitted_on) + self.held_out)
        again = REFINED * count * 2 * self.fitted_on
        return starts + again + self._refinement(count)

    def _refinement(self, count: int) -> float:
        return self.iterations_of(count) * self.calls_of_iteration(count)

    def calls_of_iteration(self, count: int) -> int:
        """About how many calls, each for one picture, an iteration of the refinement of `count` calls makes.

        They are for the differences by every coefficient and timestep, two steps that are tried, and a look at
        what came out.
        """
        behind = [count - 1 - call for call in range(count)]
        rows = sum(min(NEWEST, call + 2) * left for call, left in enumerate(behind))
        differences = rows + sum(left + 1 for left in behind[1:])
        pictures = min(self.fitted_on, max(CHUNK, self.work // count))
        looks = count * (2 * self.fitted_on + self.held_out)
        return pictures * (differences + count) + looks

    @staticmethod
    def of(pictures: int | None, iterations: int | None) -> Effort:
        """The given number of pictures, or the default. A third is held out, and half of few pictures."""
        count = USUAL.fitted_on + USUAL.held_out if pictures is None else pictures
        held_out = max(1, count // 3, min(count // 2, CHUNK))
        return replace(
            USUAL,
            fitted_on=count - held_out,
            held_out=held_out,
            iterations=iterations,
        )


USUAL = Effort()


def thin_count(keep: float, full_calls: int) -> int | None:
    """The number of thin calls to try for a keep: one more than its budget allows, if few blocks must go."""
    more = whole_count(keep, full_calls) + 1
    is_near = keep * full_calls >= (1 - THINNEST) * more
    return more if is_near and more <= min(FEW, full_calls) else None
