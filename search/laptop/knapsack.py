"""Which layers to remove so that the scores add up to least: the exact dynamic programme. numpy only.

Layers lie in each other, and removing one removes what lies in it. So they stand in order, each before
what lies in it, and a choice walks along: past a layer to the next one, or, removing it, to the first
one behind all that lies in it. A state is where the walk stands and how much has been removed; of all
walks to one state the best is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from search.core.errors import SearchError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Numbers = NDArray[np.int64]

TOLERANCE = 0.005
"""So much less than asked may remain, of the whole."""
ROUNDING = 1000
"""Units that sums of shares may be off."""
UNITS = 10**9
"""Shares of the cost are counted in so many parts."""
STATES = 2**15
"""Where more amounts can be removed than this, those that differ by less than 1/STATES of the total
share a state, which keeps the better one's exact amount."""


@dataclass(frozen=True)
class _States:
    """What can have been removed before a layer is looked at, by rising amount.

    Attributes:
        removed: the amounts.
        score: the least sum of scores for each.
        came_from: index of the state it was reached from.
        took: the layer removed last on the way there; -1 if one was passed.
        at: the layer at which that state was.
    """

    removed: Numbers
    score: NDArray[np.float64]
    came_from: Numbers
    took: Numbers
    at: Numbers


def choose(
    ends: Sequence[int],
    shares: Sequence[float],
    scores: Sequence[float],
    *,
    keep: float,
    tolerance: float = TOLERANCE,
) -> frozenset[int]:
    """The layers to remove, with the least sum of scores, so that at most `keep` remains.

    At most `tolerance` less than that does, or as little as there can where layers are too coarse.

    Args:
        ends: per layer, the number of the first one behind it that does not lie in it.
        shares: of the cost, that go with each layer and all in it; 0 if it may not be removed.
        scores: what removing it is predicted to do.
        keep: the fraction of the cost that may remain.
        tolerance: so much less may remain, of the whole.

    Raises:
        SearchError: even without all layers more remains.
    """
    weights = np.rint(np.asarray(shares) * UNITS).astype(np.int64)
    lower = int(np.ceil((1 - keep) * UNITS - ROUNDING))
    enough = lower + int(tolerance * UNITS)
    walked = _walk(ends, weights, np.asarray(scores, dtype=np.float64), enough)
    removed = walked[-1].removed
    if removed.max(initial=0) < lower:
        msg = (
            f"what can be left out leaves {1 - removed.max(initial=0) / UNITS:.1%} of the cost, but "
            f"--keep is {keep:g}; keep more, or count another --cost"
        )
        raise SearchError(msg)
    least = removed[removed >= lower].min()
    fits = (removed >= lower) & (removed <= max(least, enough))
    return _chosen(walked, int(np.argmin(np.where(fits, walked[-1].score, np.inf))))


def _walk(
    ends: Sequence[int], weights: Numbers, scores: NDArray[np.float64], enough: int
) -> list[_States]:
    """The states before each layer, and behind the last; of those beyond `enough` the least amount."""
    count = len(ends)
    arriving: list[list[_States]] = [[] for _ in range(count + 1)]
    start = np.zeros(1, dtype=np.int64)
    arriving[0] = [_States(start, np.zeros(1), start - 1, start - 1, start - 1)]
    walked: list[_States] = []
    for layer in range(count + 1):
        here = _best(arriving[layer], enough)
        arriving[layer] = []
        walked.append(here)
        if layer == count:
            break
        size = len(here.removed)
        index, at = np.arange(size), np.full(size, layer)
        passed = _States(here.removed, here.score, index, np.full(size, -1), at)
        arriving[layer + 1].append(passed)
        if weights[layer] > 0:
            arriving[ends[layer]].append(
                _States(here.removed + weights[layer], here.score + scores[layer], index, at, at)
            )
    return walked


def _best(parts: Sequence[_States], enough: int) -> _States:
    """Of these the best one of each amount, or of each small range of amounts if they are many."""
    joined = [np.concatenate([vars(part)[name] for part in parts]) for name in vars(parts[0])]
    beyond = joined[0][joined[0] > enough]
    fits = joined[0] <= (beyond.min() if len(beyond) else enough)
    joined = [each[fits] for each in joined]
    for cell in (1, -(-UNITS // STATES)):
        cells = joined[0] // cell
        order = np.lexsort((joined[1], cells))
        first = np.ones(len(order), dtype=bool)
        first[1:] = np.diff(cells[order]) != 0
        joined = [each[order[first]] for each in joined]
        if len(joined[0]) <= STATES:
            break
    return _States(*joined)


def _chosen(walked: Sequence[_States], state: int) -> frozenset[int]:
    """The layers removed on the way to a last state."""
    taken, layer = set[int](), len(walked) - 1
    while layer >= 0:
        here = walked[layer]
        if here.took[state] >= 0:
            taken.add(int(here.took[state]))
        layer, state = int(here.at[state]), int(here.came_from[state])
    return frozenset(taken)
