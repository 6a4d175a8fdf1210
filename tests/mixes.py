"""SubNets that mix all actions that can be run, at random."""

from __future__ import annotations

import numpy as np

from search.schedules import with_actions
from search.subnet import Action, SubNet

CHOICES = (Action.RUN, Action.REUSE, Action.DELTA)


def random_mix(
    whole: SubNet, seed: int, shares: tuple[float, float, float] = (0.4, 0.25, 0.35)
) -> SubNet:
    """`whole` with RUN, REUSE and DELTA at random after step 0; RUN where DELTA is not allowed."""
    shape = (whole.steps, len(whole.topology.blocks))
    drawn = np.random.default_rng(seed).choice(len(CHOICES), size=shape, p=shares)

    def action(step: int, block: int) -> Action:
        chosen = CHOICES[drawn[step, block]] if step else Action.RUN
        allowed = chosen is not Action.DELTA or block in whole.topology.deltas
        return chosen if allowed else Action.RUN

    return with_actions(whole, action, method=f"mix {seed}")
