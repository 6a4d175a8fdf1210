"""Names of blocks: nesting, and those that a SubNet skips. Pure."""

from __future__ import annotations

import math
import re
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


def abridged(names: Iterable[str]) -> tuple[str, ...]:
    """Names that differ in their numbers alone as one: `blocks.0..37`, or `down.0..2.resnets.0..1 (5)`.

    The count is there where not every combination of the numbers is a name.
    """
    alike: dict[str, list[list[int]]] = {}
    for name in names:
        numbers = [int(found) for found in _NUMBER.findall(name)]
        alike.setdefault(_NUMBER.sub("{}", name), []).append(numbers)
    return tuple(_as_one(shape, numbers) for shape, numbers in alike.items())


_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")


def _as_one(shape: str, numbers: list[list[int]]) -> str:
    ranges = [(min(column), max(column)) for column in zip(*numbers, strict=True)]
    spans = [str(low) if low == high else f"{low}..{high}" for low, high in ranges]
    whole = math.prod(high - low + 1 for low, high in ranges) == len(numbers)
    return shape.format(*spans) + ("" if whole else f" ({len(numbers)})")


def skipped(subnet: SubNet) -> list[str]:
    """The blocks that a SubNet skips at every step, in order of execution."""
    columns = zip(*subnet.actions, strict=True)
    return [
        name
        for name, column in zip(subnet.topology.blocks, columns, strict=True)
        if set(column) == {Action.SKIP}
    ]
