"""DiP-GO as published (arXiv 2410.16942): a gate for every block of every step, found by gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search.core.granularity import Granularity
from search.methods.method import Method

if TYPE_CHECKING:
    from search.core.subnet import SubNet
    from search.dipgo.records import DipGoProgress
    from search.methods.method import Task


def _make(task: Task) -> list[SubNet]:
    from search.dipgo.paper import run_paper
    from search.dipgo.recipe import PAPER

    options = task.options
    recipe = PAPER if options.iterations is None else PAPER.shortened(options.iterations)

    def tell(each: DipGoProgress) -> None:
        task.report(
            f"iteration {each.iteration + 1} of {recipe.iterations}: consistency "
            f"{each.consistency:.4f}, sparsity {each.sparsity:.3f}, keep {each.keep:.3f}",
            (each.iteration + 1) / recipe.iterations,
        )

    return run_paper(
        task.pipeline,
        task.whole,
        task.keeps,
        prompts=task.prompts,
        seed=options.seed,
        recipe=recipe,
        cost=task.cost,
        folder=task.folder,
        resume=task.resume,
        progress=tell,
    )


METHOD = Method(
    "dip-go",
    "optimise a gate for every block of every step by gradients, as DiP-GO's paper does",
    _make,
    options=("keep", "seed", "prompts", "iterations", "run", "resume"),
    granularities=(Granularity.STAGE, Granularity.BRANCH, Granularity.LAYER),
    costs=("macs", "latency"),
    defaults={"iterations": 1000},
    needs_weights=True,
)
