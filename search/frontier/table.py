"""A frontier in rows of text: the same for the terminal, the page and the spreadsheet."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from rich.table import Table

from search.frontier.distance import Baseline, Statistic
from search.frontier.rivals.searches import CARVE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from search.frontier.points import Comparison, Frontier, Point
    from search.frontier.quality import Quality

DISTANCES = {
    (target, statistic): f"{statistic} to {target}"
    for target in Baseline
    for statistic in Statistic
}


def headings(frontier: Frontier) -> tuple[str, ...]:
    """Of the columns of `figures_of`."""
    found = ("cost", "calls", *_precision_headings(frontier), *DISTANCES.values(), "PSNR", "SSIM")
    return found if frontier.reference is None else (*found, "accuracy", "Fréchet")


def figures_of(
    frontier: Frontier, point: Point, comparison: Comparison | None = None
) -> tuple[str, ...]:
    """What is known of a point, marked by the verdicts of a comparison."""
    quality = point.quality
    marks = {} if comparison is None else comparison.marks(point)
    found = (
        f"{point.cost:.3f}",
        str(point.calls),
        *_precision(frontier, point),
        *(_distance(point, key, marks.get(key, "")) for key in DISTANCES),
        f"{quality.psnr:.1f} dB",
        f"{quality.ssim:.4f}",
    )
    if frontier.reference is None:
        return found
    accuracy = quality.mean_accuracy
    return (
        *found,
        "-" if accuracy is None else f"{accuracy:.1%}",
        "-" if quality.frechet is None else f"{quality.frechet:.1f}",
    )


def _precision_headings(frontier: Frontier) -> tuple[str, ...]:
    return ("precision", "weights") if frontier.settings.precisions else ()


def _precision(frontier: Frontier, point: Point) -> tuple[str, ...]:
    """What the denoiser multiplies in, and the bytes of its weights; nothing where all are alike."""
    if not frontier.settings.precisions:
        return ()
    size = point.weights_bytes
    return (point.precision or "-", "-" if size is None else f"{size / 1e6:.1f} MB")


def _distance(point: Point, key: tuple[Baseline, Statistic], mark: str) -> str:
    """A distance with its interval."""
    target, statistic = key
    low, high = point.quality.distances[target].interval(statistic)
    return f"{mark} {_short(point.value(target, statistic), 4)} ({_short(low, 3)}-{_short(high, 3)})".strip()


def _short(number: float, digits: int) -> str:
    """Without the zero before the point."""
    return f"{number:.{digits}f}".removeprefix("0")


def full_attributes(frontier: Frontier) -> str:
    """What the judge makes of the full sampler's own pictures; empty without a judge."""
    if frontier.reference is None:
        return ""
    read = ", ".join(f"{name} {share:.1%}" for name, share in frontier.full.accuracy.items())
    return (
        f"full sampler: {read or 'no attributes in the prompts'}, Fréchet distance "
        f"{frontier.full.frechet:.1f} (to {frontier.reference})"
    )


def compared(frontier: Frontier, comparison: Comparison) -> list[tuple[str, ...]]:
    """A row per series, the closest to the fine reference first: name, figures, and carve's error over its own."""
    return [
        (
            point.name,
            *figures_of(frontier, point, comparison),
            *(_ratio(comparison.ratio(point, target)) for target in Baseline),
        )
        for point in comparison.ranking
    ]


def compared_headings(frontier: Frontier) -> tuple[str, ...]:
    """Of the columns of `compared`."""
    return ("SubNet", *headings(frontier), *(f"carve / this, {target}" for target in Baseline))


def _ratio(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f} x"


def tables(frontier: Frontier) -> Iterator[Table]:
    """One per keep, for the terminal, with the verdicts under it."""
    for comparison in frontier.comparisons:
        first, *others = compared_headings(frontier)
        table = Table(
            first,
            title=f"at {comparison.keep:g} of the full cost, or less",
            caption="\n".join(each.sentence() for each in comparison.verdicts),
            caption_justify="left",
        )
        for heading in others:
            table.add_column(heading, justify="right")
        for point, row in zip(comparison.ranking, compared(frontier, comparison), strict=True):
            table.add_row(*row, style="bold" if point.method is CARVE else None)
        yield table


def as_csv(frontier: Frontier) -> str:
    """One line per point, with all digits."""
    attributes = tuple(frontier.full.accuracy)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    distances = [
        f"{target}_{name}"
        for target in Baseline
        for name in (
            "mean",
            "mean_low",
            "mean_high",
            "median",
            "median_low",
            "median_high",
            "largest",
        )
    ]
    names = ("psnr", "ssim", "frechet")
    accuracies = tuple(f"accuracy_{name}" for name in attributes)
    writer.writerow(
        (
            "method",
            "label",
            "keep",
            "fitted",
            "cost",
            "calls",
            "precision",
            "weights_bytes",
            *distances,
            *names,
            *accuracies,
            "subnet",
        )
    )
    for point in frontier.points:
        quality = point.quality
        writer.writerow(
            (
                point.method.name,
                point.label,
                point.keep,
                str(point.is_fitted).lower(),
                point.cost,
                point.calls,
                point.precision,
                "" if point.weights_bytes is None else point.weights_bytes,
                *_distances(quality),
                *("" if (v := getattr(quality, name)) is None else v for name in names),
                *(quality.accuracy[name] for name in attributes),
                "" if point.file is None else point.file,
            )
        )
    return buffer.getvalue()


def _distances(quality: Quality) -> Iterator[float]:
    for target in Baseline:
        distance = quality.distances[target]
        for statistic in Statistic:
            yield distance.value(statistic)
            yield from distance.interval(statistic)
        yield distance.largest
