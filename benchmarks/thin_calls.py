"""Thin calls against whole ones at equal cost: `python -m benchmarks.thin_calls shapes-dit`.

carve searches twice with the same whole calls: with --no-thin, and with thin ones tried as well. The cost is MACs, or
with `--engine` the seconds that its calls take on that engine.
"""

from __future__ import annotations

import resource
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from benchmarks.record import write
from benchmarks.search_options import search_options
from benchmarks.trained import TRAINED_NAMES, trained_named
from search.core.granularity import Granularity
from search.core.subnet import SubNet
from search.core.table import keep_of
from search.fitting.effort import Effort
from search.fitting.fit import final_latents
from search.fitting.recipe import place_calls
from search.fitting.trajectories import sample_trajectories
from search.frontier.distance import Distance, Statistic
from search.methods.options import Options
from search.methods.whole import full

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from search.core.sampler import SamplerTable
    from search.core.table import Cost
    from search.fitting.trajectories import Trajectories
    from search.model.pipeline import Pipeline

HELD_OUT_SEED = 999_983


def plain(pipeline: Pipeline, whole: SubNet, steps: int) -> SubNet:
    """The scheduler's own steps, so many of them."""
    options = Options(steps=steps, guidance=whole.guidance, granularity=Granularity.LAYER)
    return full(pipeline, options)


def searched(
    pipeline: Pipeline,
    whole: SubNet,
    keep: float,
    prompts: Sequence[str],
    effort: Effort,
    cost: Cost,
    report: Callable[..., None],
) -> dict[str, SubNet]:
    """What carve finds without and with thin calls, and the whole calls that these began as."""
    with tempfile.TemporaryDirectory() as folder:
        found = {}
        for name, thin in (("whole calls", False), ("with thin calls", True)):
            (found[name],) = place_calls(
                pipeline, whole, (keep,), prompts, effort=effort, thin=thin, cost=cost,
                folder=Path(folder), resume=thin, report=report,
            )  # fmt: skip
        more = Path(folder) / f"calls-{found['whole calls'].steps + 1}.json"
        if more.exists():
            found["one whole call more"] = SubNet.load(more)
    return found


def errors_of(pipeline: Pipeline, subnet: SubNet, runs: Trajectories) -> Distance:
    """Relative L2 of the final latents to the full sampler's."""
    table: SamplerTable = (
        pipeline.sampler(subnet.binding.grid) if subnet.fitted is None else subnet.fitted.table
    )
    return Distance(tuple(runs.error(final_latents(pipeline, subnet, table, runs)).tolist()))


def cost_of(
    path: Path, whole: SubNet, engine: str | None, batch: int
) -> AbstractContextManager[Cost]:
    """Of a SubNet as a fraction of the full sampler's: its MACs, or its seconds on an engine."""
    if engine is None:
        return nullcontext(keep_of)
    from engines.base import make_engine
    from engines.latency import latency_table

    return latency_table(path, whole, make_engine(engine, "cpu"), batch=batch)


@click.command()
@click.argument("name", type=click.Choice(TRAINED_NAMES))
@search_options
@click.option("--split-streams", is_flag=True, help="As for stepcarve search.")
@click.option("--keep", default=0.7, show_default=True)
@click.option("--engine", help="Whose seconds the keep is of.  [default: MACs]")
@click.option(
    "--batch", type=click.IntRange(min=1), default=1, help="Pictures per call of --engine."
)
def main(
    name: str,
    steps: int | None,
    scheduler: str | None,
    split_streams: bool,
    keep: float,
    engine: str | None,
    batch: int,
    pictures: int | None,
    iterations: int | None,
    count: int,
) -> None:
    """Search, evaluate on held-out pictures, write results/thin-calls-NAME[-ENGINE[-batch-N]].json."""
    if batch > 1 and engine is None:
        msg = "--batch is of the calls that --engine times; give --engine too, or leave it out"
        raise click.UsageError(msg)
    console = Console(stderr=True)
    began = time.perf_counter()
    trained = trained_named(name)
    scheduler, steps = scheduler or trained.few[0], steps or trained.few[1]
    pipeline = trained.open(scheduler, split_streams=split_streams)
    whole = full(
        pipeline,
        Options(steps=steps, guidance=trained.guidance, granularity=Granularity.LAYER),
    )
    prompts, others = trained.prompts(pipeline)
    effort = Effort.of(pictures, iterations)
    with cost_of(trained.path, whole, engine, batch) as cost:
        found = searched(
            pipeline, whole, keep, prompts, effort, cost,
            lambda text, _share=None: console.log(text, highlight=False),
        )  # fmt: skip
        costs = {label: cost(subnet) for label, subnet in found.items()}
    seconds = round(time.perf_counter() - began)
    fewer = found["whole calls"].steps
    found["the scheduler's own steps"] = plain(pipeline, whole, fewer)
    runs = sample_trajectories(
        pipeline,
        [others[i % len(others)] for i in range(count)],
        grid=whole.binding.grid,
        guidance=whole.guidance,
        noise_shape=whole.binding.noise_shape,
        seed=HELD_OUT_SEED,
    )
    runs = runs.first_pictures(count)
    errors = {label: errors_of(pipeline, subnet, runs) for label, subnet in found.items()}
    rows = {
        label: {
            "calls": subnet.steps,
            "keep": keep_of(subnet) * subnet.full_calls / whole.full_calls,
            **({"seconds": costs[label]} if engine and label in costs else {}),
            **errors[label].to_json(),
        }
        for label, subnet in found.items()
    }
    thin, calls = errors["with thin calls"], errors["whole calls"]
    ratios = {each.value: thin.ratio(calls, each) for each in Statistic}
    actions = [[str(action) for action in row] for row in found["with thin calls"].actions]
    result: dict[str, Any] = {
        "scheduler": whole.binding.scheduler, "steps": steps,
        "budget": keep, "budget_of": engine or "macs", "batch": batch,
        "effort": vars(effort),
        "search_seconds": seconds, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "thin_over_whole": ratios, "rows": rows,
        "blocks": whole.topology.blocks, "actions": actions,
    }  # fmt: skip
    for label, row in rows.items():
        click.echo(
            f"{label}: {row['calls']} calls, keep {row['keep']:.3f}, mean {row['mean']:.4f}, median {row['median']:.4f}"
        )
    click.echo(ratios)
    of = "" if engine is None else f"-{engine}" + (f"-batch-{batch}" if batch > 1 else "")
    of += "-split-streams" if split_streams else ""
    click.echo(write(f"thin-calls-{name}{of}", result))


if __name__ == "__main__":
    main()
