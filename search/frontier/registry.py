"""What a frontier compares, by name. No framework."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search.core.errors import SearchError
from search.frontier.rivals.bns import BNS
from search.frontier.rivals.guidance import EXTRAPOLATED_GUIDANCE, GUIDANCE_INTERVAL
from search.frontier.rivals.holding import HOLD, HOLD_SPACED
from search.frontier.rivals.layers import DEEPCACHE, FORA, RANDOM, SMOOTHCACHE
from search.frontier.rivals.masks import BUDCACHE, STEP_MASK
from search.frontier.rivals.path_aware import DPCACHE
from search.frontier.rivals.searches import CARVE, DIP_GO
from search.frontier.rivals.solvers import DPM_SOLVER, FEWER_STEPS, UNIPC
from search.frontier.rivals.taylorseer import TAYLORSEER, TAYLORSEER_LITE
from search.frontier.rivals.times import AYS, OSS

if TYPE_CHECKING:
    from search.frontier.series import Series

SERIES: tuple[Series, ...] = (
    CARVE,
    DIP_GO,
    FEWER_STEPS,
    DPM_SOLVER,
    UNIPC,
    HOLD,
    HOLD_SPACED,
    AYS,
    OSS,
    BNS,
    DPCACHE,
    TAYLORSEER_LITE,
    TAYLORSEER,
    STEP_MASK,
    BUDCACHE,
    DEEPCACHE,
    FORA,
    SMOOTHCACHE,
    GUIDANCE_INTERVAL,
    EXTRAPOLATED_GUIDANCE,
    RANDOM,
)
"""A new rival is a record in `rivals/` and a line here."""
NAMES = tuple(each.name for each in SERIES)


def series_named(name: str) -> Series:
    """The series of that name."""
    if name not in NAMES:
        msg = f"unknown method {name!r}; choose from {', '.join(NAMES)}"
        raise SearchError(msg)
    return SERIES[NAMES.index(name)]
