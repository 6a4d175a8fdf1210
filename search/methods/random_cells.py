"""Random tables, to compare searches with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search.methods.method import Method

if TYPE_CHECKING:
    from search.core.subnet import SubNet
    from search.methods.method import Task


def _make(task: Task) -> list[SubNet]:
    from search.methods.schedules import random_reuse

    return task.each(
        lambda keep: random_reuse(task.whole, keep=keep, seed=task.options.seed, cost=task.cost)
    )


METHOD = Method(
    "random",
    "reuse blocks at random steps",
    _make,
    options=("keep", "seed"),
    costs=("macs", "latency"),
)
