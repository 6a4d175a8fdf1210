"""SubNets made from others by another table of actions, and what a table costs. Pure."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from search.core.liveness import unroll
from search.core.subnet import Action, SubNet

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Cost = Callable[[SubNet], float]
    """Of a SubNet, as a fraction of the full sampler's."""


def keep_of(subnet: SubNet) -> float:
    """The fraction of the full sampler's MACs that remains."""
    return sum(unroll(subnet).macs) / (subnet.full_calls * subnet.topology.macs)


def with_actions(full: SubNet, action: Callable[[int, int], Action], method: str) -> SubNet:
    """`full` with the action that `action(step, block)` gives.

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
    return dataclasses.replace(full, actions=rows, method=method)


def skipping(subnet: SubNet, removed: Sequence[str]) -> SubNet:
    """The same with SKIP wherever a removed block would run: that is all such a block can do.

    What it emitted earlier may still be reused.
    """
    if not removed:
        return subnet
    gone = [name in removed for name in subnet.topology.blocks]
    rows = tuple(
        tuple(
            Action.SKIP if out and action is not Action.REUSE else action
            for action, out in zip(row, gone, strict=True)
        )
        for row in subnet.actions
    )
    return dataclasses.replace(subnet, actions=rows)
