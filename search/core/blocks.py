"""Names of blocks: nesting, and those that a SubNet skips. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search.core.actions import Action

if TYPE_CHECKING:
    from collections.abc import Iterable

    from search.core.subnet import SubNet


def outermost(names: Iterable[str]) -> list[str]:
    """The outermost ones, sorted."""
    known = set(names)
    return sorted(name for name in known if not _parents(name) & known)


def _parents(name: str) -> set[str]:
    parts = name.split(".")
    return {".".join(parts[:i]) for i in range(1, len(parts))}


def skipped(subnet: SubNet) -> list[str]:
    """The blocks that a SubNet skips at every step, in order of execution."""
    columns = zip(*subnet.actions, strict=True)
    return [
        name
        for name, column in zip(subnet.topology.blocks, columns, strict=True)
        if set(column) == {Action.SKIP}
    ]
