"""Fitting to a finer sampler than the full one: `python -m benchmarks.reference_steps shapes-sd`.

Truth is the pipeline's sampler with many more steps. Compared against it: the full sampler, and our recipe
fitted to the full sampler and to a finer one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from benchmarks.record import write
from benchmarks.trained import TRAINED_NAMES, trained_named
from search.core.subnet import Granularity
from search.core.timestep_grid import TimestepGrid
from search.fitting.effort import Effort
from search.fitting.fit import final_latents
from search.fitting.recipe import place_calls
from search.fitting.trajectories import sample_trajectories
from search.methods.options import Options, keeps_of
from search.methods.whole import full

if TYPE_CHECKING:
    from search.core.subnet import SubNet
    from search.fitting.trajectories import Trajectories
    from search.model.pipeline import Pipeline

HELD_OUT_SEED = 999_983


def error_of(pipeline: Pipeline, subnet: SubNet, truth: Trajectories) -> float:
    """Mean relative L2 of the final latents of `subnet` to the truth."""
    table = pipeline.sampler(subnet.binding.grid) if subnet.fitted is None else subnet.fitted.table
    runs = truth.first_pictures(len(truth.noise))
    return float(truth.error(final_latents(pipeline, subnet, table, runs)).mean())


@click.command()
@click.argument("name", type=click.Choice(TRAINED_NAMES))
@click.option("--keep", default="0.5,0.3,0.2", show_default=True)
@click.option("--reference", default=200, show_default=True, help="Steps of the finer sampler.")
@click.option("--truth", "truth_steps", default=500, show_default=True, help="Steps of the truth.")
@click.option("--count", default=16, show_default=True, help="Held-out pictures.")
def main(name: str, keep: str, reference: int, truth_steps: int, count: int) -> None:
    """Measure and write results/reference-steps-NAME.json."""
    console = Console(stderr=True)
    trained = trained_named(name)
    pipeline = trained.open()
    options = Options(guidance=trained.guidance, granularity=Granularity.STAGE)
    whole = full(pipeline, options)
    searched, held_out = trained.prompts(pipeline)
    truth = sample_trajectories(
        pipeline,
        [held_out[i % len(held_out)] for i in range(count)],
        grid=TimestepGrid(truth_steps),
        guidance=whole.guidance,
        noise_shape=whole.binding.noise_shape,
        seed=HELD_OUT_SEED,
    )
    rows: dict[str, Any] = {
        "full": {"calls": whole.steps, "error": error_of(pipeline, whole, truth)}
    }
    keeps = keeps_of(keep)
    for steps in (None, reference):
        found = place_calls(
            pipeline,
            whole,
            keeps,
            searched,
            effort=Effort(),
            reference_steps=steps,
            report=lambda text, _share=None: console.log(text, highlight=False),
        )
        for share, subnet in zip(keeps, found, strict=True):
            label = f"keep {share:g}, fitted to {steps or whole.binding.inference_steps} steps"
            rows[label] = {"calls": subnet.steps, "error": error_of(pipeline, subnet, truth)}
            console.log(label, rows[label])
    result = {"truth_steps": truth_steps, "pictures": count, "rows": rows}
    click.echo(write(f"reference-steps-{name}", result))


if __name__ == "__main__":
    main()
