"""What a frontier compares: methods of the registry, and baselines that only a comparison needs. No framework."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from search.core.errors import SearchError
from search.methods import carve, deepcache, dip_go, fewer_steps, random_cells

if TYPE_CHECKING:
    from search.methods.method import Method


@dataclass(frozen=True)
class Series:
    """The points of one method.

    Attributes:
        name: on the command line and in files.
        label: in the plot's legend.
        colour: of its points and line.
        marker: of its points, as Matplotlib names it.
        options: of `stepcarve frontier`, that only this one uses.
        is_search: whether the others are its baselines.
        fits_itself: whether its SubNets always have a fitted sampler.
    """

    name: str
    label: str
    colour: str
    marker: str
    options: tuple[str, ...] = ()
    is_search: bool = False
    fits_itself: bool = False

    def __str__(self) -> str:
        return self.name


def _of(
    method: Method,
    label: str,
    colour: str,
    marker: str,
    *,
    options: tuple[str, ...] = (),
    is_search: bool = False,
) -> Series:
    """The series of a method of the registry."""
    return Series(method.name, label, colour, marker, options, is_search, method.fits_itself)


CARVE = _of(
    carve.METHOD, "carve", "#c0392b", "*", options=("pictures", "iterations"), is_search=True
)
DIP_GO = _of(
    dip_go.METHOD, "DiP-GO", "#7d3c98", "P", options=("dip-go-iterations",), is_search=True
)
DEEPCACHE = _of(deepcache.METHOD, "DeepCache", "#1f6f8b", "o")
"""Every interval and branch there is."""
FEWER_STEPS = _of(fewer_steps.METHOD, "fewer steps, same sampler", "#1e7d4f", "s")
DPM_SOLVER = Series("dpm-solver", "fewer steps, DPM-Solver++", "#d9822b", "D")
"""Fewer steps with DPM-Solver++ (2M)."""
HOLD = Series("hold", "whole steps held, evenly", "#566573", "v")
"""The full sampler's grid; every n-th step calls, the others hold the last prediction."""
HOLD_SPACED = Series("hold-spaced", "whole steps held, best spacing", "#99a3a4", "^")
"""The same with the spacing that does best on the calibration pictures."""
RANDOM = _of(random_cells.METHOD, "random search", "#b7950b", "X", options=("random",))
"""The best of random tables on the calibration pictures."""

SERIES = (CARVE, DIP_GO, DEEPCACHE, FEWER_STEPS, DPM_SOLVER, HOLD, HOLD_SPACED, RANDOM)
NAMES = tuple(each.name for each in SERIES)


def series_named(name: str) -> Series:
    """The series of that name."""
    if name not in NAMES:
        msg = f"unknown method {name!r}; choose from {', '.join(NAMES)}"
        raise SearchError(msg)
    return SERIES[NAMES.index(name)]
