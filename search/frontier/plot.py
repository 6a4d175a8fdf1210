"""Quality against cost, as a figure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search.frontier.series import SERIES, Series
from search.runs.figure import as_png

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from search.frontier.points import Frontier, Point

FLOOR = 1e-7
"""Least error that is drawn: an exact copy would be at minus infinity."""


def draw(frontier: Frontier) -> bytes:
    """A PNG: cost against error, one marker per series, filled if the sampler is fitted."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5.6), layout="constrained")
    axes = figure.subplots()
    for series in SERIES:
        for is_fitted in (False, True):
            points = [p for p in frontier.points if p.method is series and p.is_fitted is is_fitted]
            if points:
                _draw_series(axes, series, points, is_fitted=is_fitted)
    for keep in frontier.settings.keeps:
        axes.axvline(keep, color="#ccd1d6", linewidth=0.8, zorder=0)
    axes.set_yscale("log")
    axes.set_xlabel("MACs, as a fraction of the full sampler's (attention included)")
    axes.set_ylabel("relative L2 error of the final latents")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(
        loc="outside right upper",
        fontsize=8,
        frameon=False,
        title="open: the scheduler's own rows\nfilled: fitted rows",
        title_fontsize=8,
        alignment="left",
    )
    return as_png(figure)


def _draw_series(axes: Axes, series: Series, points: Sequence[Point], *, is_fitted: bool) -> None:
    """All points of one method, and a line through those that no cheaper one of them beats."""
    colour, is_ours = series.colour, series.fits_itself
    front = pareto(points)
    axes.plot(
        [p.cost for p in front],
        [_height(p) for p in front],
        color=colour,
        linewidth=2.2 if is_ours else 0.9,
        linestyle="-" if is_fitted else "--",
        zorder=5 if is_ours else 2,
    )
    axes.plot(
        [p.cost for p in points],
        [_height(p) for p in points],
        series.marker,
        color=colour,
        markerfacecolor=colour if is_fitted else "white",
        markersize=14 if is_ours else 5,
        label=f"{series.label}{', fitted' if is_fitted and not is_ours else ''}",
        zorder=6 if is_ours else 3,
    )


def _height(point: Point) -> float:
    return max(point.quality.error, FLOOR)


def pareto(points: Sequence[Point]) -> list[Point]:
    """Those of which none is both cheaper and better, by rising cost."""
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p.cost, p.quality.error)):
        if not front or point.quality.error < front[-1].quality.error:
            front.append(point)
    return front
