"""The registry of search methods: a pipeline and options go in, SubNets come out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from search.core.errors import SearchError
from search.core.origin import Origin
from search.core.versions import environment, version_of
from search.methods import (
    adopt,
    carve,
    deepcache,
    dip_go,
    fewer_steps,
    full,
    laptop,
    random_cells,
    removals,
)
from search.methods.method import Task, require_choice, require_fit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from search.core.subnet import SubNet
    from search.core.table import Cost
    from search.methods.method import Method
    from search.methods.options import Options
    from search.model.pipeline import Pipeline

METHODS: tuple[Method, ...] = (
    carve.METHOD,
    dip_go.METHOD,
    laptop.METHOD,
    deepcache.METHOD,
    fewer_steps.METHOD,
    random_cells.METHOD,
    full.METHOD,
    adopt.METHOD,
    removals.BK_SDM,
    removals.SSD_1B,
    removals.VEGA,
    removals.EVERY_SECOND,
)
"""The first is the default."""
PACKAGES = ("stepcarve", "torch", "diffusers", "transformers", "numpy", "scipy")
"""Whose versions a SubNet tells."""
NAMES = tuple(method.name for method in METHODS)


def method_of(name: str) -> Method:
    """The method of that name."""
    if name not in NAMES:
        msg = f"unknown method {name!r}; choose one of {', '.join(NAMES)}"
        raise SearchError(msg)
    return METHODS[NAMES.index(name)]


def search(
    pipeline: Pipeline,
    name: str,
    options: Options,
    *,
    cost: Cost | None = None,
    report: Callable[..., None] = lambda _text, _share=None: None,
) -> SubNet:
    """The SubNet of one method for `options.keep`; see `search_keeps`."""
    [found] = search_keeps(pipeline, name, options, [options.keep], cost=cost, report=report)
    return found


def search_keeps(
    pipeline: Pipeline,
    name: str,
    options: Options,
    keeps: Sequence[float],
    *,
    cost: Cost | None = None,
    folder: Path | None = None,
    resume: bool = False,
    report: Callable[..., None] = lambda _text, _share=None: None,
    note: Callable[[str], None] = lambda _text: None,
) -> list[SubNet]:
    """One SubNet for each of `keeps`, with a fitted sampler if `options.fit_sampler`.

    Args:
        pipeline: with its weights loaded if `needs_weights`.
        name: of one of `METHODS`.
        options: of the method.
        keeps: fractions of the full sampler's cost; they stand in for `options.keep`.
        cost: of a SubNet, as a fraction of the full sampler's; None is its MACs.
        folder: for the log, the plot and the checkpoints of a search that runs long, or None.
        resume: go on from what is in `folder`.
        report: called with a progress message and the completed fraction.
        note: called with one sentence per further finding.

    Raises:
        SearchError: unknown method, or options that do not fit it or the pipeline.
    """
    from search.core.table import keep_of

    method = method_of(name)
    require_choice("granularity", options.granularity, method.granularities, method)
    require_fit(options, method)
    if needs_weights(name, options):
        from search.model.pictures import require_no_pictures

        require_no_pictures(pipeline.pipe, f"--method {name}")
    task = Task(
        pipeline=pipeline,
        options=method.resolved(options),
        keeps=keeps,
        cost=keep_of if cost is None else cost,
        folder=folder,
        resume=resume,
        report=report,
        note=note,
    )
    found = method.make(task)
    if options.fit_sampler and not method.fits_itself:
        found = _fitted(task, found)
    return [
        replace(subnet, origin=_origin(method, task, keep))
        for subnet, keep in zip(found, keeps, strict=True)
    ]


def needs_weights(name: str, options: Options) -> bool:
    """Whether the search calls the denoiser, and not only looks at its architecture."""
    return options.fit_sampler or method_of(name).needs_weights


def _fitted(task: Task, found: Sequence[SubNet]) -> list[SubNet]:
    from search.fitting.fit import fit_subnets

    return fit_subnets(
        task.pipeline,
        task.whole,
        found,
        task.prompts,
        reference_steps=task.options.reference_steps,
        scales=task.scales,
        seed=task.options.seed,
        report=task.report,
    )


def _origin(method: Method, task: Task, keep: float) -> Origin:
    """The record of the search in its SubNet."""
    used = method.used(task.options, method.cost)
    dtype = task.pipeline.dtype
    computed = {"dtype": dtype} if "dtype" in used and dtype != "float32" else {}
    return Origin(
        method=method.name,
        keep=keep if "keep" in used else None,
        seed=task.options.seed if "seed" in used else None,
        options=method.recorded(task.options) | computed,
        version=version_of("stepcarve"),
        environment=environment(PACKAGES),
    )
