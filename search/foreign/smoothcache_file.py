"""Schedules of SmoothCache: at which steps all layers of a kind are computed.

A file is a JSON object from a kind of layer to one 1 (compute) or 0 (reuse) per step: `attn1` and `ff` are
the names of diffusers, `attn` and `mlp` those of DiT's own code, and `attn-3` is the layer of block 3 alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from search.core.errors import SearchError
from search.core.files import read_settings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SAME = {"attn": "attn1", "mlp": "ff"}
"""A layer of DiT's own code -> of diffusers' DiT."""

_KEY = re.compile(r"([A-Za-z_]\w*)(?:-(\d+))?")


@dataclass(frozen=True)
class LayerSchedule:
    """Which layers are computed at which step.

    Attributes:
        computes: by kind and number of the block, or None for all blocks; one per step, noisiest first.
    """

    computes: Mapping[tuple[str, int | None], tuple[bool, ...]]

    @property
    def steps(self) -> int:
        """How many there are."""
        return len(next(iter(self.computes.values())))

    def of(self, layer: str) -> tuple[bool, ...] | None:
        """The steps at which the layer of that name is computed; None if the schedule does not name it."""
        block, _, kind = layer.rpartition(".")
        number = block.rpartition(".")[2]
        kinds = [kind, *(other for other, ours in SAME.items() if ours == kind)]
        places = [int(number), None] if number.isdecimal() else [None]
        for key in ((each, place) for each in kinds for place in places):
            if key in self.computes:
                return self.computes[key]
        return None


def read_smoothcache(path: Path) -> LayerSchedule:
    """Read a schedule.

    Raises:
        SearchError: it is no such object, its lists differ in length, or the first step is reused.
    """
    settings = read_settings(path)
    found: dict[tuple[str, int | None], tuple[bool, ...]] = {}
    for key in settings.content:
        match = _KEY.fullmatch(key)
        if match is None:
            msg = f"{str(path)!r} has the key {key[:80]!r}; expected a kind of layer, such as attn1 or attn-3"
            raise SearchError(msg)
        numbers = settings.numbers(key)
        if not numbers or set(numbers) - {0, 1} or not numbers[0]:
            msg = (
                f"{str(path)!r} has {str(numbers)[:60]} for {key!r}; give one 1 (compute) or 0 (reuse) per "
                "step, and 1 for the first, when nothing is cached"
            )
            raise SearchError(msg)
        found[match[1], None if match[2] is None else int(match[2])] = tuple(map(bool, numbers))
    lengths = sorted({len(row) for row in found.values()})
    if len(lengths) != 1:
        msg = f"{str(path)!r} has lists of {lengths or 'no'} steps; give one list per kind, all as long"
        raise SearchError(msg)
    return LayerSchedule(found)
