"""The layers with the least sum of scores: an integer programme.

Layers lie in each other, and removing one removes what lies in it. So of each innermost layer and all that
it lies in at most one is removed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from search.core.errors import SearchError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]

TOLERANCE = 0.005
"""How far below the requested fraction the rest may be."""
LARGE = 10.0
"""Scale of the scores: the solver's gap is absolute, 1e-6."""


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
    amounts, values = np.asarray(shares, np.float64), np.asarray(scores, np.float64)
    nested, least = _nested(ends), 1 - keep
    chosen = _best(values, amounts, nested, (least, least + tolerance))
    if chosen is None:
        nearest = _solved(amounts, amounts, nested, (least, np.inf))
        if nearest is None:
            most = amounts @ _solved(-amounts, amounts, nested, (0, np.inf))
            msg = (
                f"{1 - most:.1%} of the cost cannot be left out, but --keep is {keep:g}; raise --keep, or "
                "choose another --cost"
            )
            raise SearchError(msg)
        chosen = _best(values, amounts, nested, (least, amounts @ nearest))
    return frozenset(int(layer) for layer in np.flatnonzero(np.asarray(chosen)))


def _nested(ends: Sequence[int]) -> NDArray[np.bool_]:
    """Per innermost layer, itself and the layers that it lies in, `[innermost, layers]`."""
    layers = np.arange(len(ends))
    innermost = layers[np.asarray(ends) == layers + 1]
    within: NDArray[np.bool_] = (layers <= innermost[:, None]) & (
        innermost[:, None] < np.asarray(ends)
    )
    return within


def _best(
    scores: Numbers, amounts: Numbers, nested: NDArray[np.bool_], limits: tuple[float, float]
) -> NDArray[np.bool_] | None:
    """The choice with the least sum of scores, which may be of any order of magnitude."""
    total = np.abs(scores).max(initial=0)
    allowed = amounts
    chosen: NDArray[np.bool_] | None = None
    while total > 0:
        found = _solved(scores * (LARGE / total), allowed, nested, limits)
        if found is None or (chosen is not None and scores[found].sum() >= scores[chosen].sum()):
            break
        chosen, reached = found, scores[found].sum()
        if abs(reached) > total / LARGE:
            break
        # The optimum contains no larger score than this choice; without those all scores are of one size.
        total = abs(reached)
        allowed = np.where(scores > reached - scores.clip(max=0).sum(), 0, amounts)
    if chosen is None:
        chosen = _solved(scores, amounts, nested, limits)
    return chosen


def _solved(
    scores: Numbers, amounts: Numbers, nested: NDArray[np.bool_], limits: tuple[float, float]
) -> Any:
    """Which layers to remove, or None if no choice removes an amount within the limits."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    found = milp(
        scores,
        integrality=np.ones(len(scores)),
        bounds=Bounds(0, amounts > 0),
        constraints=[LinearConstraint(nested, ub=1), LinearConstraint(amounts[None], *limits)],
        options={"mip_rel_gap": 0},
    )
    return None if found.x is None else found.x > 0.5
