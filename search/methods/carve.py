"""carve: few calls, placed through a fitted sampler, then refined, and thinned. See docs/recipe.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search.core.granularity import Granularity
from search.methods.method import Method

if TYPE_CHECKING:
    from search.core.subnet import SubNet
    from search.methods.method import Task
    from search.methods.options import Options


def _make(task: Task) -> list[SubNet]:
    from search.fitting.effort import Effort
    from search.fitting.recipe import place_calls

    options = task.options
    return place_calls(
        task.pipeline,
        task.whole,
        task.keeps,
        task.prompts,
        effort=Effort.of(options.pictures, options.iterations),
        thin=options.thin,
        cost=task.cost,
        reference_steps=options.reference_steps,
        scales=task.scales,
        seed=options.seed,
        folder=task.folder,
        resume=task.resume,
        report=task.report,
    )


def _calls(options: Options, whole: SubNet, keep: float) -> float:
    from search.fitting.effort import Effort
    from search.fitting.paired import can_pair

    effort = Effort.of(options.pictures, options.iterations)
    halves = options.thin and can_pair(whole.topology)
    return effort.denoiser_calls(whole.full_calls, keep, thin=options.thin, halves=halves)


METHOD = Method(
    "carve",
    "choose when to call the denoiser, fit the sampler's coefficients to the full sampler, and leave out "
    "blocks or the negative prompt where that pays for a call",
    _make,
    options=(
        "keep", "seed", "prompts", "pictures", "iterations", "thin", "reference-steps",
        "guidance-range", "run", "resume",
    ),
    granularities=(Granularity.LAYER, Granularity.BRANCH, Granularity.STAGE),
    costs=("macs", "latency"),
    defaults={"pictures": 96, "iterations": 8},
    needs_weights=True,
    fits_itself=True,
    idle=lambda options: () if options.thin else ("cost",),
    calls=_calls,
)  # fmt: skip
