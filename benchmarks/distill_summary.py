"""Tables and a picture of what `benchmarks.distill` recorded: `python -m benchmarks.distill_summary`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
from matplotlib.figure import Figure

from benchmarks.record import RESULTS, ROOT

PICTURE = ROOT / "docs" / "images" / "distill.png"
MEASURES = {"accuracy": "drop of accuracy", "frechet": "rise of Fréchet distance", "error": "L2"}


def falls(result: dict[str, Any]) -> dict[str, dict[str, list[float]]]:
    """Per kind of run, over its seeds, how far each measure is from the teacher's."""
    teacher = result["teacher"]
    found: dict[str, dict[str, list[float]]] = {}
    for name, run in result["runs"].items():
        kind = name.rsplit(" seed ", 1)[0]
        each = found.setdefault(kind, {measure: [] for measure in MEASURES})
        each["accuracy"].append(teacher["accuracy"] - run["after"]["accuracy"])
        each["frechet"].append(run["after"]["frechet"] - teacher["frechet"])
        each["error"].append(run["after"]["error"])
    return found


def rows(name: str, result: dict[str, Any]) -> list[str]:
    """A line of Markdown per kind of run."""
    teacher, lines = result["teacher"], []
    for kind, measured in falls(result).items():
        before = result["before"].get(kind.split()[0])
        untrained = "" if before is None else f"{teacher['accuracy'] - before['accuracy']:.3f}"
        shown = [
            f"{np.mean(measured['accuracy']):.3f}",
            f"{np.mean(measured['frechet']):.0f}",
            " ".join(f"{value:.3f}" for value in measured["error"]),
        ]
        lines.append(f"| {name} | {kind} | {untrained} | {' | '.join(shown)} |")
    return lines


def draw(results: dict[str, dict[str, Any]]) -> Figure:
    """Each measure of each kind of run as bars, one column per pipeline, a dot per seed."""
    figure = Figure(figsize=(4.2 * len(results), 6.4), layout="constrained")
    axes = figure.subplots(len(MEASURES), len(results), squeeze=False)
    for column, (name, result) in enumerate(results.items()):
        found = falls(result)
        for row, (measure, label) in enumerate(MEASURES.items()):
            at = axes[row][column]
            values = [found[kind][measure] for kind in found]
            at.barh(range(len(found)), [float(np.mean(v)) for v in values], color="#9cc3d5")
            for place, each in enumerate(values):
                at.plot(each, [place] * len(each), "o", color="#1f6f8b", markersize=4)
            at.set_yticks(range(len(found)), list(found) if column == 0 or row == 0 else [])
            at.invert_yaxis()
            at.set_xlabel(label)
            if row == 0:
                at.set_title(name)
    return figure


@click.command()
@click.option("-o", "--out", type=click.Path(path_type=Path), default=PICTURE)
def main(out: Path) -> None:
    """Print a table and draw the picture."""
    files = sorted(RESULTS.glob("distill-*.json"))
    results = {
        file.stem.removeprefix("distill-"): json.loads(file.read_text(encoding="utf-8"))
        for file in files
    }
    header = ["pipeline", "removal and loss", "untrained", *MEASURES.values()]
    click.echo(f"| {' | '.join(header)} |\n|{'---|' * len(header)}")
    for name, result in results.items():
        click.echo("\n".join(rows(name, result)))
    draw(results).savefig(out, dpi=110)
    click.echo(out)


if __name__ == "__main__":
    main()
