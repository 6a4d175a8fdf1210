"""DeepCache (Ma et al. 2023) with uniform intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search.core.granularity import Granularity
from search.methods.method import Method

if TYPE_CHECKING:
    from search.core.subnet import SubNet
    from search.methods.method import Task


def _make(task: Task) -> list[SubNet]:
    from search.methods.schedules import deepcache

    options = task.options
    found = deepcache(task.whole, interval=options.interval, branch=options.branch)
    return [found for _ in task.keeps]


METHOD = Method(
    "deepcache",
    "compute a U-Net's deep layers at every N-th step only, as DeepCache does",
    _make,
    options=("interval", "branch"),
    granularities=(Granularity.BRANCH,),
)
