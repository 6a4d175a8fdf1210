"""Small changes of the rows and timesteps of placed calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from search.fitting.placed import Placed
from search.fitting.rows import Calls

NEWEST = 6
"""Features whose coefficients can change, per row: the input and the newest predictions."""

if TYPE_CHECKING:
    from search.fitting.trajectories import Trajectories


@dataclass(frozen=True)
class Moves:
    """What can change of placed calls: a step says by how much.

    Attributes:
        places: of the calls, `[N]`.
        rows: theirs, with zeros for the features that they could read.
        free: per row, how many coefficients can change; features are split by guidance scale.
        room: per call, the distance that its timestep's change is measured in, `[N]`; 0: it stays.
        last: the largest position.
    """

    places: Tensor
    rows: tuple[Tensor, ...]
    free: tuple[int, ...]
    room: Tensor
    last: int

    @staticmethod
    def of(placed: Placed, runs: Trajectories) -> Moves:
        """Of `placed`, calls in the place of `runs`."""
        places = torch.tensor(placed.positions, device=runs.noise.device)
        gaps = places.diff(append=places.new_tensor([float(runs.last)])).clamp_min(0.05)
        room = torch.minimum(gaps, gaps.roll(1))
        room[0] = 0  # Another timestep for the first call gained nothing; see docs/recipe.md.
        free = tuple(runs.scale_count * min(NEWEST, call + 2) for call in range(len(places)))
        rows = tuple(
            torch.nn.functional.pad(row, (0, max(0, count - len(row))))
            for row, count in zip(placed.rows, free, strict=True)
        )
        return Moves(places, rows, free, room, runs.last)

    @property
    def size(self) -> int:
        """How many numbers a step has: those of all rows, and one per call."""
        return sum(self.free) + len(self.room)

    def after(self, step: Tensor) -> Placed:
        """The calls after a step `[size]`, not evaluated; none before the first or after the last position."""
        parts = torch.split(step.to(self.room), [*self.free, len(self.room)])
        places = (self.places + self.room * parts[-1]).clamp(0, self.last)
        rows = []
        for row, part in zip(self.rows, parts[:-1], strict=True):
            rows.append(row + torch.nn.functional.pad(part, (0, len(row) - len(part))))
        return Placed(tuple(places.tolist()), tuple(rows), torch.inf)

    def shifted(self, call: int, by: float) -> Calls:
        """The calls, one of them moved by a part of its room."""
        places = self.places.clone()
        places[call] += by * self.room[call]
        return Calls.at(list(places))
