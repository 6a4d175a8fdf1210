"""The runs of an order in several processes, here or on a cluster."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from engines.base import EngineOptions, make_engine
from engines.generate import Made, Order, Run, make, not_made, runs_of
from engines.runner import Runner
from exporter.bundle import Bundle
from search.runs.parallel import Where, run_jobs

if TYPE_CHECKING:
    from pathlib import Path

    from engines.base import Report
    from exporter.shape import Shape


@dataclass(frozen=True)
class Loaded:
    """What a process loads once for all runs that it makes.

    Attributes:
        bundle: directory.
        shape: of the variant.
        engine: name.
        device: of the engine.
        options: likewise.
    """

    bundle: Path
    shape: Shape
    engine: str
    device: str
    options: EngineOptions


@dataclass(frozen=True)
class _Job:
    """One run of `runs`."""

    loaded: Loaded
    order: Order
    run: Run
    runs: int


def generate_spread(
    loaded: Loaded,
    order: Order,
    out: Path,
    *,
    save_latents: Path | None,
    resume: bool,
    jobs: int,
    where: Where,
    report: Report,
) -> list[Made]:
    """As `engines.generate.generate`, in `jobs` processes; every machine has the same paths.

    Raises:
        EngineError: an engine that cannot be made, or see `generate`.
        SearchError: a place that is not there, or a worker that died.
    """
    make_engine(loaded.engine, loaded.device, loaded.options)
    bundle = Bundle.open(loaded.bundle, **loaded.shape.asked)
    runs = runs_of(order, loaded.shape.images, out, save_latents)
    wanted = not_made(bundle, order, runs) if resume else runs
    tasks = [_Job(loaded, replace(order, prompts=(run.prompt,)), run, len(runs)) for run in wanted]
    made: dict[int, Made] = {}
    for number, each in run_jobs(_make, tasks, workers=jobs, where=where):
        made[number] = each
        report(f"{len(made)} of {len(tasks)} runs", len(made) / len(tasks))
    return [made[number] for number in range(len(tasks))]


def _make(job: _Job) -> Made:
    return make(_runner(job.loaded), job.order, job.run, job.runs)


@lru_cache(maxsize=1)
def _runner(loaded: Loaded) -> Runner:
    bundle = Bundle.open(loaded.bundle, **loaded.shape.asked)
    return Runner(bundle, make_engine(loaded.engine, loaded.device, loaded.options))
