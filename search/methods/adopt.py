"""The sampler that was fitted for another SubNet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from search.core.errors import SearchError
from search.core.subnet import SubNet
from search.methods.method import Method

if TYPE_CHECKING:
    from search.methods.method import Task


def _make(task: Task) -> list[SubNet]:
    from search.fitting.adopt import adopt

    file = task.options.adopt_sampler
    if file is None:
        msg = (
            "the method 'adopt' takes the fitted sampler of a SubNet, and none is named; add "
            "--adopt-sampler SUBNET.json"
        )
        raise SearchError(msg)
    adopted = adopt(
        task.pipeline,
        task.whole,
        SubNet.load(Path(file)),
        task.prompts,
        seed=task.options.seed,
        report=task.report,
    )
    task.note(adopted.sentence())
    return task.each(lambda _: adopted.subnet)


METHOD = Method(
    "adopt",
    "take the fitted sampler of a SubNet of another model, size or precision",
    _make,
    options=("adopt-sampler", "prompts", "seed"),
    needs_weights=True,
    fits_itself=True,
)
