"""LAPTOP-Diff (arXiv 2404.11098): layers are removed for good, by one-shot scores and an exact knapsack."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search.core.granularity import Granularity
from search.methods.method import Method

if TYPE_CHECKING:
    from search.core.subnet import SubNet
    from search.laptop.settings import LaptopSettings
    from search.methods.method import Task
    from search.methods.options import Options


def settings_of(options: Options) -> LaptopSettings:
    """Those of the search for layers."""
    from search.laptop.settings import Criterion, LaptopSettings

    criterion = Criterion(options.criterion)
    return LaptopSettings(
        criterion=criterion,
        tuples=options.tuples,
        rounds=criterion.rounds if options.rounds is None else options.rounds,
        seed=options.seed,
        workers=options.jobs,
        where=options.parallel,
    )


def _make(task: Task) -> list[SubNet]:
    from search.laptop.recipe import remove_layers

    found = remove_layers(
        task.pipeline,
        task.whole,
        task.keeps,
        prompts=task.prompts,
        settings=settings_of(task.options),
        cost=task.cost,
        folder=task.folder,
        resume=task.resume,
        report=task.report,
    )
    task.note(found.sentence())
    return found.subnets


METHOD = Method(
    "laptop",
    "remove the layers that change the predictions least, as LAPTOP-Diff's paper does",
    _make,
    options=(
        "keep", "seed", "prompts", "criterion", "rounds", "tuples", "jobs", "parallel", "run", "resume",
    ),
    granularities=(Granularity.LAYER, Granularity.BRANCH, Granularity.STAGE),
    costs=("params", "macs", "latency"),
    needs_weights=True,
    idle=lambda options: () if options.criterion in ("output", "picture") else ("rounds",),
)  # fmt: skip
