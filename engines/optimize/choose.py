"""The stage `search`: the SubNet for the goal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engines.errors import EngineError
from search.core.subnet import SubNet
from search.core.table import whole_count

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from engines.optimize.folder import OptimizeFolder
    from engines.optimize.work import Work


def choose_subnet(work: Work, folder: OptimizeFolder) -> None:
    """Search, at several costs if the goal is a quality, and write the SubNet that is taken."""
    goal = work.settings.goal

    def found(keep: float) -> SubNet:
        file = searched(folder.searches, keep)
        if not file.is_file():
            work.search(keep, file.with_suffix("")).save(file)
        return SubNet.load(file)

    def is_enough(keep: float) -> bool:
        quality = work.quality(found(keep))
        return goal.is_met(error=quality.error, psnr=quality.psnr)

    keeps = goal.keeps if len(goal.keeps) == 1 else affordable(work, goal.keeps)
    if not keeps:
        msg = (
            f"the full sampler makes {work.whole.full_calls} call, so nothing cheaper can be found; give more "
            "--steps, or --keep"
        )
        raise EngineError(msg)
    keep = cheapest(keeps, is_enough)
    found(keep).save(folder.subnet)


def searched(searches: Path, keep: float) -> Path:
    """The SubNet of a search at one cost."""
    return searches / f"keep-{keep:.4g}.json"


def affordable(work: Work, keeps: Sequence[float]) -> list[float]:
    """Those that pay for a call of the full sampler, and each for another number of calls."""
    calls = {whole_count(keep, work.whole.full_calls): keep for keep in reversed(keeps)}
    return sorted(keep for count, keep in calls.items() if count > 0)


def cheapest(keeps: Sequence[float], is_enough: Callable[[float], bool]) -> float:
    """The least of rising `keeps` that is enough, by bisection; the last one if none is."""
    low, high = 0, len(keeps) - 1
    while low < high:
        middle = (low + high) // 2
        if is_enough(keeps[middle]):
            high = middle
        else:
            low = middle + 1
    return keeps[low]
