"""Small changes of the rows and timesteps of placed calls."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from search.fitting.placed import Placed
from search.fitting.rows import Calls, changes_nothing

if TYPE_CHECKING:
    from search.fitting.trajectories import Trajectories

NEWEST = 7
"""Features whose coefficients can change, per row: the input and the newest predictions."""
LEAST = 0.05
"""Of the gaps between calls, when changes of timesteps are measured in them."""


@dataclass(frozen=True)
class Moves:
    """What can change of placed calls: a step says by how much.

    A row that changes nothing stays as it is, and the calls before and after it stay together.

    Attributes:
        places: of the calls, `[N]`.
        rows: theirs, with zeros for the features that they could read.
        free: per row, how many coefficients can change; features are split by guidance scale.
        last: the largest position.
    """

    places: Tensor
    rows: tuple[Tensor, ...]
    free: tuple[int, ...]
    last: int

    @staticmethod
    def of(placed: Placed, runs: Trajectories) -> Moves:
        """What can change of `placed`, which approximates `runs`."""
        places = torch.tensor(placed.positions, device=runs.noise.device)
        free = tuple(
            0
            if changes_nothing(row, runs.scale_count)
            else runs.scale_count * min(NEWEST, call + 2)
            for call, row in enumerate(placed.rows)
        )
        rows = tuple(
            torch.nn.functional.pad(row, (0, max(0, count - len(row))))
            for row, count in zip(placed.rows, free, strict=True)
        )
        return Moves(places, rows, free, runs.last)

    @cached_property
    def first_calls(self) -> tuple[int, ...]:
        """The first call at each place."""
        return (0, *(call + 1 for call, free in enumerate(self.free[:-1]) if free))

    @cached_property
    def _place_of(self) -> list[int]:
        """Per call, the number of its place."""
        return [
            sum(first <= call for first in self.first_calls) - 1 for call in range(len(self.rows))
        ]

    @cached_property
    def room(self) -> Tensor:
        """Per place, the distance that its change is measured in; 0: it stays."""
        distinct = self.places[list(self.first_calls)]
        gaps = distinct.diff(append=distinct.new_tensor([self.last + 1.0])).clamp_min(LEAST)
        room = torch.minimum(gaps, gaps.roll(1))
        room[0] = 0  # Another timestep for the first call gained nothing; see docs/recipe.md.
        return room

    @property
    def size(self) -> int:
        """How many numbers a step has: those of all rows, and one per place."""
        return sum(self.free) + len(self.room)

    def after(self, step: Tensor) -> Placed:
        """The calls after a step `[size]`, not evaluated; none before the first or after the last position."""
        parts = torch.split(step.to(self.room), [*self.free, len(self.room)])
        rows = []
        for row, part in zip(self.rows, parts[:-1], strict=True):
            rows.append(row + torch.nn.functional.pad(part, (0, len(row) - len(part))))
        return Placed(tuple(self._moved(parts[-1]).tolist()), tuple(rows), torch.inf)

    def shifted(self, place: int, by: float) -> Calls:
        """The calls, those of a place moved by a part of its room."""
        parts = torch.zeros_like(self.room)
        parts[place] = by
        return Calls.at(list(self._moved(parts)))

    def _moved(self, parts: Tensor) -> Tensor:
        return (self.places + (self.room * parts)[self._place_of]).clamp(0, self.last)
