"""Memory and seconds of carve at the size of real models: `python -m benchmarks.search_scale sd15|flux`.

`sd15` is a U-Net of Stable Diffusion 1.5's size; `flux` a transformer of FLUX's width with one block of each kind, for its
packed latents and its two streams. Weights are random, so nothing is said about quality. A search with few pictures and
a run of diffusers' own sampler for one picture are measured in processes of their own.

What an iteration of the refinement would take on an H200 is computed: its calls of the denoiser, two floating-point
operations per multiply-accumulate, at `ACHIEVED` of the GPU's dense bfloat16 peak.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import click

from benchmarks.record import write
from benchmarks.search_cost import measured

PEAK, ACHIEVED = 989e12, 0.4
"""Operations per second of an H200 (its data sheet, bfloat16, dense), and the share that is assumed."""
PROMPT = "a small red circle left on a grey field"
LONGEST_TEXT = {"max_sequence_length": 64}


def make(name: str, folder: Path) -> None:
    """Save the pipeline."""
    from benchmarks import full_size

    if name == "sd15":
        full_size.sd15(folder)
    else:
        full_size.narrow_flux(folder)


def opened(name: str, path: Path, dtype: str) -> Any:
    """The pipeline with its weights."""
    from search.model.opening import open_asked

    call = LONGEST_TEXT.items() if name == "flux" else ()
    return open_asked(path, scheduler=None, call=call, dtype=dtype)


def sampled(name: str, path: Path, steps: int, pixels: int, dtype: str) -> dict[str, Any]:
    """One run of diffusers' own sampler."""
    from search.model.family import Request
    from search.model.reference import sample

    pipeline = opened(name, path, dtype)
    began = time.perf_counter()
    request = Request((PROMPT,), steps, pipeline.default_guidance, output="latent")
    sample(pipeline, request.sized((pixels, pixels)))
    return {"seconds": round(time.perf_counter() - began, 1)}


def searched(
    name: str,
    path: Path,
    steps: int,
    pixels: int,
    dtype: str,
    keep: float,
    iterations: int,
    pictures: int,
) -> dict[str, Any]:
    """A search, and the seconds of an iteration of its refinement."""
    from search.fitting.effort import Effort
    from search.fitting.recipe import place_calls
    from search.methods.options import Options
    from search.methods.registry import search

    pipeline = opened(name, path, dtype)
    options = Options(steps=steps, height=pixels, width=pixels)
    whole = search(pipeline, "full", options)
    ticks: list[float] = []

    def tell(text: str, _share: float | None = None) -> None:
        if ": iteration " in text:
            ticks.append(time.perf_counter())

    effort = Effort.of(pictures, iterations)
    (found,) = place_calls(
        pipeline, whole, (keep,), [PROMPT], effort=effort, thin=False, report=tell
    )
    # Evaluations and other starts lie between some of them.
    seconds = statistics.median(b - a for a, b in pairwise(ticks))
    calls = effort.calls_of_iteration(found.steps)
    rows = 2 if whole.binding.guided else 1
    operations = 2 * whole.topology.macs * rows * calls
    return {
        "calls": found.steps,
        "pictures": effort.fitted_on,
        "calls_of_an_iteration": calls,
        "seconds_of_an_iteration": round(seconds, 2),
        "operations_of_an_iteration": operations,
        "reckoned_seconds_on_an_h200": round(operations / (PEAK * ACHIEVED), 4),
    }


def apart(*arguments: str | Path) -> dict[str, Any]:
    """What this module prints in a process of its own, and its largest resident set."""
    found = measured("-m", "benchmarks.search_scale", *arguments)
    return {**json.loads(found["printed"]), "peak_mb": found["peak_mb"]}


@click.command()
@click.argument("name", type=click.Choice(["sd15", "flux"]))
@click.option("--steps", default=8, show_default=True)
@click.option("--pixels", default=256, show_default=True, help="Edge of the picture.")
@click.option("--dtype", default="float32", show_default=True)
@click.option("--keep", default=0.4, show_default=True)
@click.option("--iterations", default=8, show_default=True)
@click.option("--pictures", default=3, show_default=True)
@click.option("--part", hidden=True)
@click.option("--folder", type=click.Path(path_type=Path), hidden=True)
def main(
    name: str,
    steps: int,
    pixels: int,
    dtype: str,
    keep: float,
    iterations: int,
    pictures: int,
    part: str | None,
    folder: Path | None,
) -> None:
    """Measure both and write results/search-scale-NAME-DTYPE.json."""
    if folder is not None:
        if part == "sample":
            found = sampled(name, folder, steps, pixels, dtype)
        else:
            found = searched(name, folder, steps, pixels, dtype, keep, iterations, pictures)
        click.echo(json.dumps(found))
        return
    given = {
        "steps": steps, "pixels": pixels, "dtype": dtype, "keep": keep, "iterations": iterations,
        "pictures": pictures,
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="stepcarve-") as temporary:
        path = Path(temporary) / "pipeline"
        make(name, path)
        shared = [part for key, value in given.items() for part in (f"--{key}", str(value))]
        once = apart(name, *shared, "--folder", path, "--part", "sample")
        search = apart(name, *shared, "--folder", path, "--part", "search")
    ratio = round(search["peak_mb"] / once["peak_mb"], 2)
    record = {**given, "search": search, "sampling": once, "memory_ratio": ratio}
    click.echo(record)
    click.echo(write(f"search-scale-{name}-{dtype}", record))


if __name__ == "__main__":
    main()
