"""Settings of TaylorSeer in OpenVINO GenAI and in diffusers: fixed intervals, forecasts of first order.

Both have the same names and mean other steps by them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from search.core.errors import SearchError
from search.core.files import read_settings

if TYPE_CHECKING:
    from pathlib import Path

INTERVAL, BEFORE, AFTER = "cache_interval", "disable_cache_before_step", "disable_cache_after_step"
ORDER, DTYPE, MODULES, ZEROS, LITE = (
    "max_order",
    "taylor_factors_dtype",
    "cache_identifiers",
    "skip_predict_identifiers",
    "use_lite_mode",
)
ATTENTION = (
    "^blocks.*attn",
    "^transformer_blocks.*attn",
    "^single_transformer_blocks.*attn",
    "^temporal_transformer_blocks.*attn",
)
"""The modules that diffusers forecasts by default."""
RUNS = 2
"""Computed steps before the first forecast."""


@dataclass(frozen=True)
class TaylorSeer:
    """When to compute, and what is forecast otherwise.

    Attributes:
        interval: one step of so many is computed.
        before: all steps before this one are computed.
        after: all steps from this one on are computed; counted from the end if it is negative.
        first: how many steps are forecast before the first computed one.
        modules: expressions for the names of the forecast modules; none stands for the prediction.
    """

    interval: int
    before: int
    after: int | None
    first: int
    modules: tuple[str, ...] = ()

    def computes(self, steps: int) -> tuple[bool, ...]:
        """Per step of a sampler of so many.

        Raises:
            SearchError: nothing would be forecast.
        """
        end = steps if self.after is None else self.after + (steps if self.after < 0 else 0)
        found = tuple(
            step < self.before
            or step >= end
            or (
                (step >= self.before + self.first)
                and (step - self.before - self.first) % self.interval == 0
            )
            for step in range(steps)
        )
        if all(found):
            msg = (
                f"with {BEFORE} {self.before}, {AFTER} {self.after} and {INTERVAL} {self.interval}, none of "
                f"{steps} steps is forecast; give more --steps, or use the full sampler"
            )
            raise SearchError(msg)
        return found


def read_openvino_taylorseer(path: Path) -> TaylorSeer:
    """Read a JSON object of the fields of OpenVINO GenAI's `TaylorSeerCacheConfig`.

    Raises:
        SearchError: it is none.
    """
    settings = read_settings(path)
    settings.require_known((INTERVAL, BEFORE, AFTER))
    after = settings.content.get(AFTER, -2)
    if not isinstance(after, int) or isinstance(after, bool):
        msg = f"{str(path)!r} has {AFTER} {after!r}; give a whole number"
        raise SearchError(msg)
    interval = settings.number(INTERVAL, 3, least=2)
    before = max(settings.number(BEFORE, 6), RUNS)
    return TaylorSeer(interval, before, after, first=interval - 1)


def read_diffusers_taylorseer(path: Path) -> TaylorSeer:
    """Read a JSON object of the fields of diffusers' `TaylorSeerCacheConfig`.

    Raises:
        SearchError: it is none, or asks for what no SubNet does.
    """
    settings = read_settings(path)
    settings.require_known((INTERVAL, BEFORE, AFTER, ORDER, DTYPE, MODULES, ZEROS, LITE))
    content = settings.content
    if settings.number(ORDER, 1) != 1 or content.get(ZEROS):
        msg = (
            f"{str(path)!r} has {ORDER} {content.get(ORDER, 1)!r} and {ZEROS} {content.get(ZEROS)!r}; a "
            f"SubNet forecasts with order 1 and skips nothing on the way: leave {ZEROS} out"
        )
        raise SearchError(msg)
    after = None if content.get(AFTER) is None else settings.number(AFTER, 0)
    modules = content.get(MODULES) or list(ATTENTION)
    if not isinstance(modules, list) or not all(isinstance(each, str) for each in modules):
        msg = f"{str(path)!r} has {MODULES} {str(modules)[:80]}; give a list of expressions"
        raise SearchError(msg)
    return TaylorSeer(
        interval=settings.number(INTERVAL, 5, least=2),
        before=settings.number(BEFORE, 3, least=RUNS),
        after=after,
        first=1,
        modules=() if content.get(LITE) is True else tuple(modules),
    )
