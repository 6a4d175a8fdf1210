"""From the gates' scores to a SubNet of a given cost. Pure."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from search.core.actions import Action
from search.core.errors import SearchError
from search.core.table import keep_of, with_rows
from search.supernet.shares import reuse_unread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from search.core.subnet import SubNet
    from search.core.table import Cost


@dataclasses.dataclass(frozen=True)
class Scores:
    """What an optimised pruner says.

    Attributes:
        choices: the meaning of the last axis of `values`; the first is RUN.
        values: how much each choice of each block at each step is worth, `[T, N, A]`, in 0..1.
    """

    choices: tuple[Action, ...]
    values: NDArray[np.float64]


def subnet_of(full: SubNet, scores: Scores) -> SubNet:
    """The SubNet of the best choices; step 0 runs everything."""
    best = np.where(_free(full), scores.values.argmax(-1), 0)
    rows = [tuple(scores.choices[i] for i in row) for row in best]
    return with_rows(full, (full.actions[0], *rows[1:]))


def subnet_at(
    full: SubNet,
    scores: Scores,
    keep: float,
    *,
    tolerance: float,
    cascade: bool,
    cost: Cost = keep_of,
) -> SubNet:
    """The SubNet that runs the cells of highest score for at most `keep` of the cost.

    One threshold on the score of RUN for all steps and blocks, found by bisection; cells of equal score
    count one by one. Where this misses `keep` by `tolerance` or more, single cells run again, those of
    highest score first.

    Args:
        full: runs everything.
        scores: for its steps and blocks.
        keep: what `cost` may be at most.
        tolerance: the cost should be above `keep - tolerance`.
        cascade: turn blocks that nobody reads in a step into reused ones.
        cost: of a SubNet, as a fraction of the full sampler's.

    Raises:
        SearchError: step 0 alone costs more.
    """
    run = scores.values[..., 0]
    other = 1 + scores.values[..., 1:].argmax(-1)
    order = np.argsort(run[1:], axis=None, kind="stable")
    order = order[_free(full)[1:].ravel()[order]]

    def settled(subnet: SubNet) -> SubNet:
        return reuse_unread(subnet) if cascade else subnet

    def resting(count: int) -> SubNet:
        """The SubNet in which the `count` cells of lowest score do not run."""
        chosen = np.zeros(run.shape, int)
        steps, blocks = np.unravel_index(order[:count], run[1:].shape)
        chosen[1 + steps, blocks] = other[1 + steps, blocks]
        rows = tuple(tuple(scores.choices[i] for i in row) for row in chosen)
        return settled(with_rows(full, rows))

    count = _bisected(lambda count: cost(resting(count)) <= keep, order.size)
    found = resting(count)
    if cost(found) > keep:
        msg = (
            f"a keep of {keep} cannot be reached: {cost(found):.4f} remains when only step 0 and "
            "residuals run; raise --keep, or take more --steps"
        )
        raise SearchError(msg)
    cells = [(1 + int(i) // run.shape[1], int(i) % run.shape[1]) for i in order[:count][::-1]]
    return _refilled(found, cells, settled, lambda s: keep - cost(s), tolerance)


def _free(full: SubNet) -> NDArray[np.bool_]:
    """The cells that may do something else than run: not those of a block's first step, `[T, N]`."""
    has, first = full.topology.has, full.topology.first_step
    return np.array(
        [
            [
                has(step, block) and step != first(block)
                for block in range(len(full.topology.blocks))
            ]
            for step in range(full.steps)
        ]
    )


def _bisected(fits: Callable[[int], bool], most: int) -> int:
    """The least number up to `most` that fits, if larger ones fit better."""
    low, high = -1, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def _refilled(
    subnet: SubNet,
    cells: Sequence[tuple[int, int]],
    settled: Callable[[SubNet], SubNet],
    room: Callable[[SubNet], float],
    tolerance: float,
) -> SubNet:
    """Run single `cells` again, in order, while there is room for them."""
    left = room(subnet)
    for step, block in cells:
        if left < tolerance:
            break
        rows = [list(row) for row in subnet.actions]
        rows[step][block] = Action.RUN
        candidate = settled(with_rows(subnet, rows))
        after = room(candidate)
        if 0 <= after < left:
            subnet, left = candidate, after
    return subnet
