"""Seconds of the criterion with one worker and with two, and its scores on Ray: `python -m benchmarks.laptop_workers`.

Set OMP_NUM_THREADS=1, so that a worker is a thread.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
import torch

from benchmarks.full_size import sd15
from benchmarks.record import write
from search.core.subnet import Granularity
from search.laptop.layers import Layers, layers_of
from search.laptop.probe import Measure
from search.laptop.settings import Criterion, LaptopSettings
from search.laptop.store import FULL, TUPLES, Store
from search.laptop.tuples import Tuples
from search.methods.options import Options
from search.methods.whole import full
from search.model.opening import open_pipeline
from search.runs.parallel import Where

if TYPE_CHECKING:
    from search.model.pipeline import Pipeline


@click.command()
@click.option("--width", default=320, show_default=True, help="Of the U-Net; 320 is SD-1.5's.")
@click.option("--sets", default=32, show_default=True, help="Layers that are scored.")
@click.option("--ray/--no-ray", default=True)
def main(width: int, sets: int, ray: bool) -> None:
    """Measure, and compare the scores."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pipeline"
        sd15(path, (width, 2 * width, 4 * width, 4 * width))
        pipeline = open_pipeline(path)
        options = Options(steps=2, guidance=5.0, granularity=Granularity.LAYER)
        layers = layers_of(full(pipeline, options))
        ways = {
            "1 worker": LaptopSettings(criterion=Criterion.PICTURE, rounds=2),
            "2 workers": LaptopSettings(criterion=Criterion.PICTURE, rounds=2, workers=2),
            **(
                {
                    "2 workers on Ray": LaptopSettings(
                        criterion=Criterion.PICTURE, rounds=2, workers=2, where=Where.RAY
                    )
                }
                if ray
                else {}
            ),
        }
        found = {
            name: measured(pipeline, layers, sets, settings, Path(folder) / name)
            for name, settings in ways.items()
        }
    scores = {name: losses for name, (_, losses) in found.items()}
    seconds = {name: round(took, 1) for name, (took, _) in found.items()}
    record = {
        "width": width,
        "gmacs_per_sample": round(layers.full.topology.macs / 1e9),
        "sets": sets,
        "seconds": seconds,
        "speedup": seconds["1 worker"] / seconds["2 workers"],
        "equal": {name: losses == scores["1 worker"] for name, losses in scores.items()},
    }
    click.echo(record)
    click.echo(write("laptop-workers", record))


def measured(
    pipeline: Pipeline, layers: Layers, sets: int, settings: LaptopSettings, folder: Path
) -> tuple[float, list[float]]:
    """Seconds and losses; starting workers and opening the pipeline in them is counted."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, *layers.full.binding.latent_shape, generator=generator)
    tuples = Tuples(latents, torch.tensor([500.0]), latents.clone(), ("a",))
    layers.full.save(folder / FULL)
    tuples.save(folder / TUPLES)
    measure = Measure(
        pipeline, layers, tuples, settings, Store(folder), {}, str(folder), lambda *_: None
    )
    count = len(layers.names)
    chosen = [frozenset({i * count // sets}) for i in range(sets)]
    began = time.perf_counter()
    losses = measure(chosen, Criterion.OUTPUT, "scores")
    return time.perf_counter() - began, losses


if __name__ == "__main__":
    main()
