"""SubNets with another table of actions, and the cost of a table. Pure."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from search.core.actions import RECORDS, Action
from search.core.liveness import unroll
from search.core.streams import module_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from search.core.subnet import SubNet

    Cost = Callable[[SubNet], float]
    """Of a SubNet, as a fraction of the full sampler's."""


def keep_of(subnet: SubNet) -> float:
    """The fraction of the full sampler's MACs that remains."""
    return sum(unroll(subnet).macs) / (subnet.full_calls * subnet.topology.macs)


def with_actions(full: SubNet, action: Callable[[int, int], Action], method: str) -> SubNet:
    """`full` with the action that `action(step, block)` gives, and default coefficients.

    A block that `full` skips was removed for good, and may be reused but never run.
    """

    def possible(step: int, block: int) -> Action:
        wanted = action(step, block)
        gone = full.actions[0][block] is Action.SKIP
        return Action.SKIP if gone and wanted is not Action.REUSE else wanted

    rows = tuple(
        tuple(possible(step, block) for block in range(len(full.topology.blocks)))
        for step in range(full.steps)
    )
    return dataclasses.replace(with_rows(full, rows), method=method)


def with_rows(subnet: SubNet, rows: Sequence[Sequence[Action]]) -> SubNet:
    """`subnet` with another table; a cell keeps its coefficients or gets its action's default ones.

    Cells of blocks that a step does not have are RUN, which says nothing there.
    """
    has = subnet.topology.has
    rows = [
        [action if has(step, block) else Action.RUN for block, action in enumerate(row)]
        for step, row in enumerate(rows)
    ]
    known = {(step, block): weights for step, block, weights in subnet.coefficients}
    coefficients = tuple(
        (step, block, known.get((step, block), RECORDS[action].default))
        for step, row in enumerate(rows)
        for block, action in enumerate(row)
        if RECORDS[action].free
    )
    actions = tuple(map(tuple, rows))
    return dataclasses.replace(subnet, actions=actions, coefficients=coefficients)


def always(subnet: SubNet, action: Action) -> SubNet:
    """`subnet` with one action everywhere."""
    return with_rows(subnet, ((action,) * len(subnet.topology.blocks),) * subnet.steps)


def skipping(subnet: SubNet, removed: Sequence[str]) -> SubNet:
    """The same with SKIP wherever a removed block would run.

    What it emitted earlier may still be reused.
    """
    if not removed:
        return subnet
    streams = subnet.topology.streams
    gone = [module_of(name, streams) in removed for name in subnet.topology.blocks]
    rows = tuple(
        tuple(
            Action.SKIP if out and action is not Action.REUSE else action
            for action, out in zip(row, gone, strict=True)
        )
        for row in subnet.actions
    )
    return with_rows(subnet, rows)


def whole_table(subnet: SubNet) -> SubNet | None:
    """Every block at every step of the sampler that `subnet` is bound to; None if it stands in for another."""
    if len(subnet.binding.timesteps) != subnet.full_calls:
        return None
    row = (Action.RUN,) * len(subnet.topology.blocks)
    rows = (row,) * subnet.full_calls
    return dataclasses.replace(subnet, actions=rows, coefficients=(), fitted=None, method="full")


def whole_count(keep: float, full_calls: int) -> int:
    """How many whole calls a keep pays for, whatever rounding makes of their product."""
    return int(keep * full_calls + 1e-9)
