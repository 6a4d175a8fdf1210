"""Layers that people removed by hand: BK-SDM, SSD-1B, Segmind-Vega, every second block."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search.core.granularity import Granularity
from search.methods.method import Method

if TYPE_CHECKING:
    from search.core.subnet import SubNet
    from search.methods.method import Task

GRANULARITIES = (Granularity.LAYER, Granularity.BRANCH, Granularity.STAGE)
VARIANTS = ("base", "small", "tiny", "keep")
"""Of BK-SDM: what was published, and its order of removal down to any keep."""
COSTS = ("params", "macs", "latency")


def _bk_sdm(task: Task) -> list[SubNet]:
    from search.laptop import by_hand

    variant = task.options.variant
    if variant == "keep":
        return task.each(lambda keep: by_hand.bk_sdm_order(task.whole, keep, task.cost))
    return task.each(lambda _: by_hand.bk_sdm(task.whole, variant))


def _ssd_1b(task: Task) -> list[SubNet]:
    from search.laptop import by_hand

    return task.each(lambda _: by_hand.with_depths(task.whole, "ssd-1b"))


def _vega(task: Task) -> list[SubNet]:
    from search.laptop import by_hand

    return task.each(lambda _: by_hand.with_depths(task.whole, "vega"))


def _every_second(task: Task) -> list[SubNet]:
    from search.laptop import by_hand

    return task.each(lambda keep: by_hand.every_second(task.whole, keep, task.cost))


BK_SDM = Method(
    "bk-sdm",
    "remove the layers that BK-SDM removes from a U-Net like SD-1.5's",
    _bk_sdm,
    options=("variant", "keep"),
    granularities=GRANULARITIES,
    costs=COSTS,
    idle=lambda options: () if options.variant == "keep" else ("keep", "cost"),
)
SSD_1B = Method(
    "ssd-1b",
    "remove the layers of SDXL that SSD-1B lacks",
    _ssd_1b,
    granularities=GRANULARITIES,
)
VEGA = Method(
    "vega",
    "remove the layers of SDXL that Segmind-Vega lacks",
    _vega,
    granularities=GRANULARITIES,
)
EVERY_SECOND = Method(
    "every-second",
    "remove every second block of a transformer, then more, down to --keep",
    _every_second,
    options=("keep",),
    granularities=GRANULARITIES,
    costs=COSTS,
)
