"""Our search against everything else on a pipeline we trained: `python -m benchmarks.frontier shapes-sd`."""

from __future__ import annotations

import resource
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from rich.console import Console

from benchmarks.record import RESULTS, write
from examples.shapes.evaluate import HELD_OUT_SEED, HERE
from examples.shapes.pictures import draw
from search.core.files import require_free, write_atomically
from search.frontier.judge import Judge
from search.frontier.registry import NAMES, SERIES, series_named
from search.frontier.run import run_frontier
from search.frontier.settings import FrontierSettings
from search.frontier.table import as_csv
from search.frontier.write import write_frontier
from search.methods.options import keeps_of, names_of
from search.model.pipeline import open_pipeline

if TYPE_CHECKING:
    from search.frontier.points import Frontier

GUIDANCE = {"shapes-sd": 4.0, "shapes-dit": 3.0}
"""The card's recommendation, at least 3."""
REAL = 4096


def save_real_features(name: str, judge: Path, file: Path) -> Path:
    """What the judge makes of real pictures, `[REAL, F]`."""
    place = "centred" if name == "shapes-dit" else None
    pictures = draw(REAL, np.random.default_rng(HELD_OUT_SEED), place=place)
    np.save(file, Judge(judge).read(pictures.pixels).features)
    return file


def record(found: Frontier, name: str, seconds: float) -> Path:
    """Write `results/frontier-NAME.json` without the SubNets, the CSV and the plot beside it."""
    facts: dict[str, Any] = found.to_json()
    write_atomically(RESULTS / f"frontier-{name}.csv", as_csv(found))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return write(f"frontier-{name}", {"seconds": round(seconds), "peak_mb": round(peak), **facts})


@click.command()
@click.argument("name", type=click.Choice(list(GUIDANCE)))
@click.option("--steps", default=50, show_default=True)
@click.option("--scheduler", help="Default: the pipeline's own, DDIM.")
@click.option("--keep", default="0.5,0.3,0.2", show_default=True)
@click.option("--methods", help="Default: all.")
@click.option("--pictures", type=int, help="To choose and fit by. Default: carve's.")
@click.option("--iterations", type=int, help="Of carve and bns. Default: carve's.")
@click.option("--random", default=40, show_default=True, help="Tables and sets of steps to try.")
@click.option("--fine-steps", type=int, help="Of the fine reference. Default: 10 x the full ones.")
@click.option(
    "--reference-steps", type=int, help="Of the sampler to fit to. Default: the full one."
)
@click.option("--count", default=64, show_default=True, help="Held-out pictures.")
@click.option("--as", "suffix", default="", help="Part of the result's name.")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Also keep the whole frontier.")
def main(
    name: str,
    steps: int,
    scheduler: str | None,
    keep: str,
    methods: str | None,
    pictures: int | None,
    iterations: int | None,
    random: int,
    fine_steps: int | None,
    reference_steps: int | None,
    count: int,
    suffix: str,
    out: Path | None,
) -> None:
    """Compare, print the winners and record all points."""
    if out is not None:
        require_free(out)
    console = Console(stderr=True)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        judge = HERE / "judge.onnx"
        settings = FrontierSettings(
            steps=steps,
            scheduler=scheduler,
            guidance=GUIDANCE[name],
            keeps=keeps_of(keep),
            methods=SERIES
            if methods is None
            else tuple(map(series_named, names_of(methods, NAMES))),
            count=count,
            pictures=pictures,
            iterations=iterations,
            random=random,
            fine_steps=fine_steps,
            reference_steps=reference_steps,
            judge=judge,
            features=save_real_features(name, judge, Path(folder) / "real.npy"),
        )
        found = run_frontier(
            open_pipeline(HERE / name),
            settings,
            report=lambda text, _share=None: console.log(text, highlight=False),
        )
    if out is not None:
        write_frontier(found, out)
    click.echo(as_csv(found))
    for comparison in found.comparisons:
        click.echo(f"at {comparison.keep:g} of the cost")
        for verdict in comparison.verdicts:
            click.echo(f"  {verdict.sentence()}")
    click.echo(record(found, name + suffix, time.perf_counter() - began))


if __name__ == "__main__":
    main()
