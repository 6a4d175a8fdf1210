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
from benchmarks.trained import TRAINED_NAMES, trained_named
from search.core.files import require_free, write_atomically
from search.frontier.registry import NAMES, SERIES, series_named
from search.frontier.run import run_frontier
from search.frontier.settings import FrontierSettings
from search.frontier.table import as_csv
from search.frontier.write import write_frontier
from search.methods.options import keeps_of, names_of

if TYPE_CHECKING:
    from search.frontier.points import Frontier


def record(found: Frontier, name: str, seconds: float) -> Path:
    """Write `results/frontier-NAME.json` without the SubNets, the CSV and the plot beside it."""
    facts: dict[str, Any] = found.to_json()
    write_atomically(RESULTS / f"frontier-{name}.csv", as_csv(found))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return write(f"frontier-{name}", {"seconds": round(seconds), "peak_mb": round(peak), **facts})


@click.command()
@click.argument("name", type=click.Choice(TRAINED_NAMES))
@click.option("--split-streams", is_flag=True, help="As for stepcarve search.")
@click.option("--steps", type=int, help="Default: those of trained.py.")
@click.option("--scheduler", help="Default: the pipeline's own.")
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
    split_streams: bool,
    steps: int | None,
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
    trained = trained_named(name)
    pipeline = trained.open(split_streams=split_streams)
    prompts, held_out = trained.prompts(pipeline)
    with tempfile.TemporaryDirectory() as folder:
        features = Path(folder) / "real.npy"
        np.save(features, trained.real_features())
        settings = FrontierSettings(
            steps=steps or trained.steps,
            scheduler=scheduler,
            guidance=trained.guidance,
            keeps=keeps_of(keep),
            methods=SERIES
            if methods is None
            else tuple(map(series_named, names_of(methods, NAMES))),
            prompts=prompts,
            held_out=held_out,
            count=count,
            pictures=pictures,
            iterations=iterations,
            random=random,
            fine_steps=fine_steps,
            reference_steps=reference_steps,
            judge=trained.judge,
            features=features,
        )
        found = run_frontier(
            pipeline,
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
    suffix = ("-split-streams" if split_streams else "") + suffix
    click.echo(record(found, name + suffix, time.perf_counter() - began))


if __name__ == "__main__":
    main()
