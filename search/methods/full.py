"""The full sampler: every block at every step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search.methods.method import Method

if TYPE_CHECKING:
    from search.core.subnet import SubNet
    from search.methods.method import Task


def _make(task: Task) -> list[SubNet]:
    return [task.whole for _ in task.keeps]


METHOD = Method("full", "compute every block at every step", _make)
