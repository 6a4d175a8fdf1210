"""A frontier in rows of text: the same for the terminal, the page and the spreadsheet."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from search.frontier.points import Comparison, Frontier, Point

FIGURES = ("cost", "calls", "error", "median", "largest", "PSNR", "SSIM")


def headings(frontier: Frontier) -> tuple[str, ...]:
    """Of the columns of `figures_of`."""
    return FIGURES if frontier.reference is None else (*FIGURES, "accuracy", "Fréchet")


def figures_of(frontier: Frontier, point: Point) -> tuple[str, ...]:
    """What is known of a point."""
    quality = point.quality
    found = (
        f"{point.cost:.3f}",
        str(point.calls),
        f"{quality.error:.4f}",
        f"{quality.median_error:.4f}",
        f"{quality.largest_error:.4f}",
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
    """A row per contender: what it is, its name, its figures, and our error over its error."""
    rows = []
    for role, point in comparison.contenders.items():
        ratio = comparison.ratio(point)
        rows.append(
            (
                role,
                point.name,
                *figures_of(frontier, point),
                "-" if ratio is None else f"{ratio:.2f} x",
            )
        )
    return rows


def tables(frontier: Frontier) -> Iterator[Table]:
    """One per keep, for the terminal."""
    for comparison in frontier.comparisons:
        table = Table("", "SubNet", title=f"at {comparison.keep:g} of the full cost, or less")
        for heading in (*headings(frontier), "carve / this"):
            table.add_column(heading, justify="right")
        for row in compared(frontier, comparison):
            table.add_row(*row, style="bold" if row[0] == "carve" else None)
        yield table


def as_csv(frontier: Frontier) -> str:
    """One line per point, with all digits."""
    attributes = tuple(frontier.full.accuracy)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names = ("error", "median_error", "largest_error", "psnr", "ssim", "frechet")
    accuracies = tuple(f"accuracy_{name}" for name in attributes)
    writer.writerow(
        ("method", "label", "keep", "fitted", "cost", "calls", *names, *accuracies, "subnet")
    )
    for point in frontier.points:
        quality = point.quality
        writer.writerow(
            (
                point.method.name,
                point.label,
                "" if point.keep is None else point.keep,
                str(point.is_fitted).lower(),
                point.cost,
                point.calls,
                *("" if (v := getattr(quality, name)) is None else v for name in names),
                *(quality.accuracy[name] for name in attributes),
                point.file,
            )
        )
    return buffer.getvalue()
