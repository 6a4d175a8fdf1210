"""The sampler that was fitted for another SubNet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from search.core.errors import SearchError
from search.methods.fewer_steps import fewer_steps
from search.methods.method import Method

if TYPE_CHECKING:
    from search.core.subnet import SubNet
    from search.methods.method import Task


def _make(task: Task) -> list[SubNet]:
    from search.core.subnet import SubNet
    from search.fitting.adopt import adopt

    file = task.options.adopt_sampler
    if file is None:
        msg = (
            "the method 'adopt' takes the fitted sampler of a SubNet, and none is named; add "
            "--adopt-sampler SUBNET.json"
        )
        raise SearchError(msg)
    found = SubNet.load(Path(file))
    adopted = adopt(
        task.pipeline,
        task.whole,
        found,
        _plain(task, found),
        task.prompts,
        seed=task.options.seed,
        report=task.report,
    )
    task.note(adopted.sentence())
    return task.each(lambda _: adopted.subnet)


def _plain(task: Task, found: SubNet) -> SubNet | None:
    """As many of the scheduler's own steps, if there are such: a custom grid has none."""
    try:
        return fewer_steps(task.pipeline, task.whole, min(1.0, found.steps / task.whole.full_calls))
    except SearchError:
        return None


METHOD = Method(
    "adopt",
    "take the fitted sampler of a SubNet of another model, size or precision",
    _make,
    options=("adopt-sampler", "prompts", "seed"),
    needs_weights=True,
    fits_itself=True,
)
