"""SKIP and REUSE together: `python -m benchmarks.together DISTILLED`, a student of shapes-sd.

DISTILLED is a pipeline that `stepcarve distill` made. Both pipelines are searched alike; the cost of
every table is in MACs of the teacher's 50 full calls, and the same held-out pictures are evaluated.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import torch

from benchmarks.record import write
from benchmarks.trained import SHAPES_SD
from examples.shapes.evaluate import HELD_OUT_SEED
from examples.shapes.pictures import draw
from search.core.actions import Action
from search.core.liveness import unroll
from search.core.subnet import Granularity, SubNet
from search.frontier.judge import Judge, frechet_distance
from search.methods.options import Options, keeps_of
from search.methods.registry import search_keeps
from search.methods.whole import full
from search.model.family import Request
from search.model.opening import open_pipeline
from search.model.reference import sample

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from search.model.pipeline import Pipeline

KEEPS = "0.02,0.04,0.06,0.08,0.1,0.16"
INTERVALS = (3, 5, 8, 12, 17)
BATCH = 64


def tables(
    pipeline: Pipeline, options: Options, keeps: Sequence[float], intervals: Sequence[int]
) -> Iterator[tuple[str, SubNet]]:
    """The full sampler, our search's tables, and DeepCache with a fitted sampler."""
    stage = replace(options, granularity=Granularity.STAGE)
    yield "full", full(pipeline, stage)
    for keep, found in zip(keeps, search_keeps(pipeline, "carve", stage, list(keeps)), strict=True):
        yield f"carve keep {keep:g}", found
    for interval in intervals:
        chosen = replace(options, interval=interval, fit_sampler=True)
        [found] = search_keeps(pipeline, "deepcache", chosen, [1.0])
        yield f"deepcache interval {interval}", found


def evaluated(
    pipeline: Pipeline, subnet: SubNet, prompts: list[str], judge: Judge, real: Any
) -> dict[str, Any]:
    """Accuracy and Fréchet distance of held-out pictures, and what the table does."""
    noise = np.random.default_rng(5).standard_normal((len(prompts), 4, 16, 16))
    images = []
    for first in range(0, len(prompts), BATCH):
        end = first + BATCH
        latents = torch.tensor(noise[first:end], dtype=torch.float32)
        request = Request(
            tuple(prompts[first:end]), SHAPES_SD.steps, SHAPES_SD.guidance, latents=latents
        )
        made: Any = sample(pipeline, request, subnet).images
        images.append(np.rint(made * 255).astype(np.uint8))
    reading = judge.read(np.concatenate(images))
    accuracy = judge.accuracy(reading, prompts)
    actions = [action for row in subnet.actions for action in row]
    return {
        "macs": sum(unroll(subnet).macs),
        "accuracy": float(np.mean(list(accuracy.values()))),
        "frechet": frechet_distance(real, reading.features),
        "skips": actions.count(Action.SKIP),
        "reused": actions.count(Action.REUSE),
    }


def cheapest(points: dict[str, dict[str, Any]], least: float, *, searched: bool) -> str | None:
    """The point of least cost that is accurate enough, among searched tables or the full sampler."""
    fitting = [
        name
        for name, point in points.items()
        if point["accuracy"] >= least and (name != "full") is searched
    ]
    return min(fitting, key=lambda name: points[name]["macs"], default=None)


@click.command()
@click.argument("distilled", type=click.Path(path_type=Path))
@click.option("--count", default=128, show_default=True, help="Held-out pictures.")
@click.option("--pictures", default=32, show_default=True, help="To calibrate with.")
@click.option("--iterations", default=5, show_default=True, help="Of the search, per keep.")
@click.option("--keep", default=KEEPS, show_default=True, help="Of the search.")
@click.option("--interval", "intervals", type=int, multiple=True, help="Of DeepCache.")
@click.option("--as", "suffix", default="", help="Part of the result's name.")
def main(
    distilled: Path,
    count: int,
    pictures: int,
    iterations: int,
    keep: str,
    intervals: tuple[int, ...],
    suffix: str,
) -> None:
    """Search both pipelines alike and record cost and accuracy of every table."""
    torch.set_num_threads(1)
    options = Options(
        steps=SHAPES_SD.steps,
        guidance=SHAPES_SD.guidance,
        pictures=pictures,
        iterations=iterations,
    )
    judge, real = Judge(SHAPES_SD.judge), SHAPES_SD.real_features()
    prompts = draw(count, np.random.default_rng(HELD_OUT_SEED + 1)).captions()
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for label, path in (("teacher", SHAPES_SD.path), ("student", distilled)):
        pipeline, found[label] = open_pipeline(path), {}
        for name, subnet in tables(pipeline, options, keeps_of(keep), intervals or INTERVALS):
            found[label][name] = evaluated(pipeline, subnet, prompts, judge, real)
            click.echo(f"{label} {name}: {json.dumps(found[label][name])}", err=True)
    whole = found["teacher"]["full"]
    for points in found.values():
        for point in points.values():
            point["cost"] = point["macs"] / whole["macs"]
    least = whole["accuracy"] - 0.01
    best = {
        "skip alone": cheapest(found["student"], least, searched=False),
        "reuse alone": cheapest(found["teacher"], least, searched=True),
        "together": cheapest(found["student"], least, searched=True),
    }
    click.echo(json.dumps(best))
    file = write(
        f"together{suffix}", {"pictures": count, "least": least, "best": best, "points": found}
    )
    click.echo(file)


if __name__ == "__main__":
    main()
