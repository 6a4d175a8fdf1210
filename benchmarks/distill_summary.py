"""A table and a picture of what `benchmarks.distill` recorded: `python -m benchmarks.distill_summary`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from matplotlib.figure import Figure

from benchmarks.record import RESULTS, ROOT

if TYPE_CHECKING:
    from collections.abc import Sequence

PICTURE = ROOT / "docs" / "images" / "distill.png"
MEASURES = {
    "accuracy": ("drop of accuracy", ".3f"),
    "frechet": ("rise of Fréchet distance", ".0f"),
    "error": ("L2", ".3f"),
}
PIPELINES = ("shapes-sd", "shapes-dit")


@dataclass(frozen=True)
class RunGroup:
    """Runs that differ in their seed alone.

    Attributes:
        pipeline: its name.
        iterations: of each run.
        what: removal, loss, and the features' weight where it is not 1.
        untrained: the drop of accuracy before distillation.
        falls: per measure, how far each run is from the teacher.
        seconds: of a core, per run.
    """

    pipeline: str
    iterations: int
    what: str
    untrained: float
    falls: dict[str, list[float]]
    seconds: list[float]


def kinds_of(name: str, result: dict[str, Any]) -> list[RunGroup]:
    """The kinds of runs in one file of results."""
    teacher, found = result["teacher"], dict[str, RunGroup]()
    for key, run in result["runs"].items():
        method, loss, *_ = key.split()
        weight = run["recipe"]["feature_weight"]
        what = f"{method}, {loss}" + ("" if weight == 1 else f", weight {weight:g}")
        kind = found.setdefault(
            what,
            RunGroup(
                pipeline=next(each for each in PIPELINES if name.startswith(each)),
                iterations=run["recipe"]["iterations"],
                what=what,
                untrained=teacher["accuracy"] - result["before"][method]["accuracy"],
                falls={measure: [] for measure in MEASURES},
                seconds=[],
            ),
        )
        after = run["after"]
        kind.falls["accuracy"].append(teacher["accuracy"] - after["accuracy"])
        kind.falls["frechet"].append(after["frechet"] - teacher["frechet"])
        kind.falls["error"].append(after["error"])
        kind.seconds.append(run["cpu_seconds"])
    return list(found.values())


def row(kind: RunGroup) -> str:
    """A line of Markdown; a figure per seed."""
    figures = (
        " ".join(format(value, form) for value in kind.falls[measure])
        for measure, (_, form) in MEASURES.items()
    )
    cells = (
        kind.pipeline,
        str(kind.iterations),
        kind.what,
        f"{kind.untrained:.3f}",
        *figures,
        f"{np.mean(kind.seconds):.0f}",
    )
    return f"| {' | '.join(cells)} |"


def draw(kinds: Sequence[RunGroup]) -> Figure:
    """Each measure as bars over the kinds, a column per pipeline and length that has several seeds."""
    columns: dict[str, list[RunGroup]] = {}
    for kind in kinds:
        columns.setdefault(f"{kind.pipeline}, {kind.iterations} iterations", []).append(kind)
    columns = {
        title: shown
        for title, shown in columns.items()
        if any(len(kind.seconds) > 1 for kind in shown)
    }
    figure = Figure(figsize=(4.2 * len(columns), 6.4), layout="constrained")
    axes = figure.subplots(len(MEASURES), len(columns), squeeze=False)
    for column, (title, shown) in enumerate(columns.items()):
        axes[0][column].set_title(title)
        for at, (measure, (label, _)) in zip(axes[:, column], MEASURES.items(), strict=True):
            values = [kind.falls[measure] for kind in shown]
            at.barh(range(len(shown)), [float(np.mean(v)) for v in values], color="#9cc3d5")
            for place, each in enumerate(values):
                at.plot(each, [place] * len(each), "o", color="#1f6f8b", markersize=4)
            at.set_yticks(range(len(shown)), [kind.what for kind in shown])
            at.invert_yaxis()
            at.set_xlabel(label)
    return figure


@click.command()
@click.option("-o", "--out", type=click.Path(path_type=Path), default=PICTURE)
def main(out: Path) -> None:
    """Print the table and draw the picture."""
    kinds = [
        kind
        for file in RESULTS.glob("distill-*.json")
        for kind in kinds_of(
            file.stem.removeprefix("distill-"), json.loads(file.read_text(encoding="utf-8"))
        )
    ]
    kinds.sort(key=lambda kind: (PIPELINES.index(kind.pipeline), kind.iterations, kind.what))
    labels = [label for label, _ in MEASURES.values()]
    header = [
        "pipeline",
        "iterations",
        "removal and loss",
        "untrained",
        *labels,
        "seconds of a core",
    ]
    click.echo(f"| {' | '.join(header)} |\n|{'---|' * len(header)}")
    click.echo("\n".join(map(row, kinds)))
    draw(kinds).savefig(out, dpi=110)
    click.echo(out)


if __name__ == "__main__":
    main()
