"""SubNets that mix all actions that can be run, at random."""

from __future__ import annotations

import numpy as np

from search.core.actions import Action
from search.core.subnet import SubNet
from search.methods.schedules import with_actions

CHOICES = (Action.RUN, Action.REUSE, Action.DELTA, Action.SKIP)


def random_mix(
    whole: SubNet, seed: int, shares: tuple[float, ...] = (0.4, 0.2, 0.25, 0.15)
) -> SubNet:
    """`whole` with RUN, REUSE, DELTA and SKIP at random; RUN where what was drawn is not allowed."""
    shape = (whole.steps, len(whole.topology.blocks))
    drawn = np.random.default_rng(seed).choice(len(CHOICES), size=shape, p=shares)

    def action(step: int, block: int) -> Action:
        chosen = CHOICES[drawn[step, block]]
        if chosen in (Action.DELTA, Action.SKIP) and block not in whole.topology.based:
            return Action.RUN
        ran = (drawn[:step, block] == CHOICES.index(Action.RUN)).any()
        filled = {Action.REUSE: step > 0, Action.DELTA: ran}
        return chosen if filled.get(chosen, True) else Action.RUN

    return with_actions(whole, action, method=f"mix {seed}")
