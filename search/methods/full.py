"""The full sampler: every block at every step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search.methods.method import Method

if TYPE_CHECKING:
    from search.core.subnet import SubNet
    from search.methods.method import Task
    from search.methods.options import Options
    from search.model.pipeline import Pipeline


def full(pipeline: Pipeline, options: Options) -> SubNet:
    """Every block at every step of what `options` ask of the sampler."""
    from search.model.whole import whole_subnet

    return whole_subnet(
        pipeline,
        grid=options.grid(pipeline.default_steps),
        granularity=options.granularity,
        guidance=pipeline.default_guidance if options.guidance is None else options.guidance,
        size=options.size,
    )


def _make(task: Task) -> list[SubNet]:
    return [task.whole for _ in task.keeps]


METHOD = Method("full", "compute every block at every step", _make)
