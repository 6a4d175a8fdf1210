"""The gradient search from pipeline to SubNets."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from search.core.table import keep_of, skipping
from search.dipgo.optimise import optimise
from search.dipgo.postprocess import subnet_at
from search.dipgo.recipe import PAPER, DipGoRecipe
from search.dipgo.records import DipGoRun
from search.supernet.supernet import CHOICES, CHOICES_WITH_DELTA, supernet

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from search.core.subnet import SubNet
    from search.core.table import Cost
    from search.dipgo.records import DipGoProgress
    from search.model.pipeline import Pipeline


def run_paper(
    pipeline: Pipeline,
    whole: SubNet,
    keeps: Sequence[float],
    *,
    prompts: Sequence[str],
    seed: int = 0,
    recipe: DipGoRecipe = PAPER,
    cost: Cost = keep_of,
    folder: Path | None = None,
    resume: bool = False,
    progress: Callable[[DipGoProgress], None] | None = None,
) -> list[SubNet]:
    """One search; a SubNet for each of `keeps`, made from the same scores.

    Args:
        pipeline: with its weights loaded, on the device to search on.
        whole: runs everything; says the sampler, the guidance, the blocks and the size.
        keeps: fractions of the full sampler's cost that may remain.
        prompts: to search with.
        seed: of noise, prompts and the pruner's first weights.
        recipe: the choices of the search.
        cost: of a SubNet as a fraction of the full sampler's; decides how much each may run.
        folder: for log, plot and checkpoints, or None.
        resume: go on from the checkpoint in `folder`, if there is one.
        progress: called after each iteration.
    """
    choices = CHOICES_WITH_DELTA if recipe.delta else CHOICES
    with supernet(pipeline, whole, choices=choices, every=recipe.every) as net:
        scores = optimise(
            net,
            recipe,
            prompts,
            seed=seed,
            folder=None if folder is None else DipGoRun(folder),
            resume=resume,
            progress=progress,
        )
    found = []
    for keep in keeps:
        subnet = subnet_at(
            whole,
            scores,
            keep,
            tolerance=recipe.tolerance,
            cascade=recipe.reuse_unread,
            cost=cost,
        )
        subnet = skipping(subnet, pipeline.removed)
        found.append(dataclasses.replace(subnet, method=f"dip-go keep {keep} seed {seed}"))
    return found
