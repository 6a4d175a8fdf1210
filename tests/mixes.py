"""SubNets that mix all actions, at random."""

from __future__ import annotations

import dataclasses

import numpy as np

from search.core.actions import RECORDS, Action, Source
from search.core.subnet import SubNet
from search.core.table import with_actions

SHARES = {
    Action.RUN: 0.4,
    Action.REUSE: 0.15,
    Action.DELTA: 0.2,
    Action.SKIP: 0.1,
    Action.FORECAST: 0.15,
}


def random_mix(whole: SubNet, seed: int, shares: dict[Action, float] = SHARES) -> SubNet:
    """`whole` with all actions at random; RUN where what was drawn is not allowed."""
    random = np.random.default_rng(seed)
    blocks = range(len(whole.topology.blocks))
    rows: list[list[Action]] = []
    for _ in range(whole.steps):
        drawn = random.choice([*shares], size=len(blocks), p=[*shares.values()])
        rows.append([_possible(whole, rows, block, Action(drawn[block])) for block in blocks])
        rows[-1] = [
            action if whole.topology.has(len(rows) - 1, block) else Action.RUN
            for block, action in enumerate(rows[-1])
        ]
    made = with_actions(whole, lambda step, block: rows[step][block], method=f"mix {seed}")
    moved = tuple(
        (step, block, tuple(w + random.uniform(-0.5, 0.5) for w in weights))
        for step, block, weights in made.coefficients
    )
    return dataclasses.replace(made, coefficients=moved)


def _possible(whole: SubNet, rows: list[list[Action]], block: int, wanted: Action) -> Action:
    """`wanted`, if the block can do that after `rows`; otherwise RUN."""
    record = RECORDS[wanted]
    rows = [row for step, row in enumerate(rows) if whole.topology.has(step, block)]
    ran = sum(row[block] is Action.RUN for row in rows)
    able = (
        (rows or Source.EMITTED not in record.row)
        and ran >= record.runs
        and (block in whole.topology.based or Source.BASE not in record.row)
    )
    return wanted if able else Action.RUN
