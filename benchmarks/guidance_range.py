"""Rows for a range of guidance scales against rows for one: `python -m benchmarks.guidance_range shapes-sd`.

carve searches once for the range and once for each scale that is asked for, with equal effort.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from benchmarks.record import write
from benchmarks.search_options import search_options
from benchmarks.trained import TRAINED_NAMES, trained_named
from search.commands.values import NUMBER
from search.core.sampler import ScaleRange
from search.fitting.effort import Effort
from search.fitting.fit import final_latents
from search.fitting.recipe import place_calls
from search.fitting.trajectories import sample_trajectories
from search.frontier.distance import Distance, Statistic
from search.methods.options import Options
from search.methods.whole import full

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from search.core.subnet import SubNet
    from search.model.pipeline import Pipeline

HELD_OUT_SEED = 999_983
RANGED = "rows for the range"


def errors_at(
    pipeline: Pipeline,
    whole: SubNet,
    scale: float,
    subnets: dict[str, SubNet],
    prompts: Sequence[str],
) -> dict[str, Distance]:
    """Relative L2 of the final latents of each SubNet to the full sampler's at a guidance scale."""
    runs = sample_trajectories(
        pipeline, prompts, grid=whole.binding.grid, guidance=scale,
        noise_shape=whole.binding.noise_shape, seed=HELD_OUT_SEED,
    ).first_pictures(len(prompts))  # fmt: skip
    found = {}
    for label, subnet in subnets.items():
        there = subnet.at(scale)
        table = pipeline.sampler_of(there)
        errors = runs.error(final_latents(pipeline, there, table, runs))
        found[label] = Distance(tuple(errors.tolist()))
    return found


def compared(
    found: dict[float, dict[str, Distance]], echo: Callable[[str], None]
) -> dict[str, Any]:
    """By scale: all errors, and those of the range over those of rows for that scale."""
    result: dict[str, Any] = {}
    for scale, errors in found.items():
        ranged, alone = errors[RANGED], errors[f"rows for {scale:g}"]
        ratios = {each.value: ranged.ratio(alone, each) for each in Statistic}
        result[f"{scale:g}"] = {
            "range_over_alone": ratios,
            "rows": {label: each.to_json() for label, each in errors.items()},
        }
        for label, each in errors.items():
            shown = each.to_json()
            echo(f"at {scale:g}, {label}: mean {shown['mean']:.4f}, median {shown['median']:.4f}")
        echo(f"at {scale:g}: {ratios}")
    return result


@click.command()
@click.argument("name", type=click.Choice(TRAINED_NAMES))
@click.option("--range", "ends", type=NUMBER, nargs=2, default=(2.0, 7.0), show_default=True)
@click.option("--at", "scales", type=NUMBER, multiple=True, default=(3.0, 5.5), show_default=True)
@search_options
@click.option("--keep", default=0.5, show_default=True)
def main(
    name: str,
    ends: tuple[float, float],
    scales: tuple[float, ...],
    steps: int | None,
    scheduler: str | None,
    keep: float,
    pictures: int | None,
    iterations: int | None,
    count: int,
) -> None:
    """Search, evaluate on held-out pictures and write results/guidance-range-NAME.json."""
    console = Console(stderr=True)
    trained = trained_named(name)
    scheduler, steps = scheduler or trained.few[0], steps or trained.few[1]
    pipeline = trained.open(scheduler)
    whole = full(pipeline, Options(steps=steps, guidance=trained.guidance))
    prompts, others = trained.prompts(pipeline)
    effort, seconds = Effort.of(pictures, iterations), dict[str, int]()

    def searched(label: str, guidance: float, asked: ScaleRange | None) -> SubNet:
        began = time.perf_counter()
        [found] = place_calls(
            pipeline, replace(whole, guidance=guidance), (keep,), prompts, effort=effort, thin=False,
            scales=asked, report=lambda text, _=None: console.log(f"{label}: {text}", highlight=False),
        )  # fmt: skip
        seconds[label] = round(time.perf_counter() - began)
        return found

    subnets = {RANGED: searched(RANGED, whole.guidance, ScaleRange(*ends, whole.guidance))}
    for scale in scales:
        label = f"rows for {scale:g}"
        subnets[label] = searched(label, scale, None)
    shown = [others[i % len(others)] for i in range(count)]
    found = {scale: errors_at(pipeline, whole, scale, subnets, shown) for scale in scales}
    result = {
        "scheduler": whole.binding.scheduler, "steps": steps, "keep": keep, "range": ends,
        "guidance": whole.guidance, "effort": vars(effort), "search_seconds": seconds,
        "calls": {label: subnet.steps for label, subnet in subnets.items()},
        "at": compared(found, click.echo),
    }  # fmt: skip
    click.echo(write(f"guidance-range-{name}", result))


if __name__ == "__main__":
    main()
