"""Quality against cost, as a figure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search.frontier.distance import Baseline, Statistic
from search.frontier.registry import SERIES
from search.frontier.rivals.searches import CARVE
from search.runs.figure import as_png

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from search.frontier.points import Frontier, Point

EDGE = "#1d2730"
FLOOR = 1e-7
"""Least error that is drawn: an exact copy would be at minus infinity."""


def draw(frontier: Frontier, *, marked: Point | None = None) -> bytes:
    """A PNG: cost against the distance to each target, one marker per series, filled if the sampler is fitted.

    At each keep, rings mark the winner and what cannot be told apart from it.

    Args:
        frontier: to draw.
        marked: one of its points, to be pointed at. Such a figure has few series, and is smaller, so that its
            letters are larger on a page.
    """
    from matplotlib.figure import Figure

    size = (15, 6.4) if marked is None else (11, 4.8)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(Baseline))
    for axes, target in zip(panels, Baseline, strict=True):
        for series in SERIES:
            mine = [p for p in frontier.points if p.method is series]
            for kind in sorted({(p.precision, p.is_fitted) for p in mine}):
                points = [p for p in mine if (p.precision, p.is_fitted) == kind]
                _draw_series(axes, points, target)
        for keep in frontier.settings.keeps:
            axes.axvline(keep, color="#ccd1d6", linewidth=0.8, zorder=0)
        _draw_verdicts(axes, frontier, target)
        if marked is not None:
            _point_at(axes, marked, target)
        axes.set_yscale("log")
        axes.set_title(f"to the {target} sampler", fontsize=10)
        axes.set_xlabel("MACs, as a fraction of the full sampler's")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("relative L2 of the final latents, mean and 95 % interval")
    handles, labels = panels[0].get_legend_handles_labels()
    few_bits = (
        "\nblack edge, dotted: quantised" if any(p.precision for p in frontier.points) else ""
    )
    figure.legend(
        handles,
        labels,
        loc="outside right upper",
        fontsize=8,
        frameon=False,
        title="open: rows of its own\nfilled: fitted rows\nring: the best, or not told apart"
        + few_bits,
        title_fontsize=8,
        alignment="left",
    )
    return as_png(figure)


def _draw_series(axes: Axes, points: Sequence[Point], target: Baseline) -> None:
    """All points of one method and kind, and a line through those that no cheaper one of them beats."""
    series, is_fitted, precision = points[0].method, points[0].is_fitted, points[0].precision
    colour, is_ours = series.colour, series is CARVE
    words = (
        series.label,
        "fitted" if is_fitted and not series.fits_itself else "",
        precision,
    )
    front = pareto(points, target)
    axes.plot(
        [p.cost for p in front],
        [_height(p, target) for p in front],
        color=colour,
        linewidth=2.2 if is_ours else 0.9,
        linestyle=":" if precision else "-" if is_fitted else "--",
        zorder=5 if is_ours else 2,
    )
    ends = [p.quality.distances[target].interval(Statistic.MEAN) for p in points]
    heights = [_height(p, target) for p in points]
    axes.errorbar(
        [p.cost for p in points],
        heights,
        yerr=[
            [max(h - low, 0) for h, (low, _) in zip(heights, ends, strict=True)],
            [max(high - h, 0) for h, (_, high) in zip(heights, ends, strict=True)],
        ],
        fmt=series.marker,
        color=colour,
        elinewidth=0.6,
        markerfacecolor=colour if is_fitted else "white",
        markeredgecolor=EDGE if precision else colour,
        markersize=12 if is_ours else 5,
        label=", ".join(filter(None, words)),
        zorder=6 if is_ours else 3,
    )


def _draw_verdicts(axes: Axes, frontier: Frontier, target: Baseline) -> None:
    for comparison in frontier.comparisons:
        for verdict in comparison.verdicts:
            if (verdict.target, verdict.statistic) != (target, Statistic.MEAN):
                continue
            for point, width in ((verdict.winner, 1.8), *((each, 0.7) for each in verdict.tied)):
                axes.plot(
                    point.cost,
                    _height(point, target),
                    "o",
                    color=EDGE,
                    fillstyle="none",
                    markersize=18,
                    markeredgewidth=width,
                    zorder=7,
                )


def _point_at(axes: Axes, point: Point, target: Baseline) -> None:
    axes.annotate(
        f"this one: {point.name}",
        (point.cost, _height(point, target)),
        xytext=(14, -14),
        textcoords="offset points",
        color=point.method.colour,
        weight="bold",
    )


def _height(point: Point, target: Baseline) -> float:
    return max(point.value(target, Statistic.MEAN), FLOOR)


def pareto(points: Sequence[Point], target: Baseline) -> list[Point]:
    """Those of which none is both cheaper and closer to the target, by rising cost."""

    def distance(point: Point) -> float:
        return point.value(target, Statistic.MEAN)

    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p.cost, distance(p))):
        if not front or distance(point) < distance(front[-1]):
            front.append(point)
    return front
