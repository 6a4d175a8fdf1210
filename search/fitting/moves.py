"""Small changes of the rows and timesteps of placed calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from search.fitting.placed import overall
from search.fitting.rows import Calls, walk

if TYPE_CHECKING:
    from search.fitting.placed import Placed
    from search.fitting.trajectories import Trajectories

DAMPING = 1e-6
"""Of directions in which features hardly differ, relative to each feature's own square sum."""


@dataclass(frozen=True)
class Moves:
    """Changes of placed calls, zero at first.

    Each row moves along directions in which its features are orthonormal, because predictions of
    neighbouring calls are nearly parallel.

    Attributes:
        start: what changes.
        last: the largest position.
        bases: per row, a matrix whose columns are its directions; each is of one guidance scale.
        room: per call, the distance that its timestep's change is measured in, `[N]`.
        rows: per row, its change along the directions.
        shifts: of the calls, `[N]`.
    """

    start: Placed
    last: int
    bases: tuple[Tensor, ...]
    room: Tensor
    rows: tuple[Tensor, ...]
    shifts: Tensor

    @staticmethod
    def of(start: Placed, runs: Trajectories) -> Moves:
        """Of `start`, with directions by the features of some runs."""
        places = torch.tensor(start.positions, device=runs.noise.device)
        gaps = places.diff(append=places.new_tensor([float(runs.last)])).clamp_min(0.05)
        room = torch.minimum(gaps, gaps.roll(1))
        room[0] = 0  # Another timestep for the first call gained nothing; see docs/recipe.md.
        # What is left to correct, and so how far rows should move, differs between guidance scales.
        errors = torch.tensor(start.errors or (start.error,)).to(room)
        reach = (errors / overall(errors)).nan_to_num(1.0)
        bases = tuple(
            base * reach.repeat(len(base) // len(reach)) for base in _directions(runs, start)
        )
        rows = tuple(torch.zeros_like(row, requires_grad=True) for row in start.rows)
        shifts = torch.zeros_like(places, requires_grad=True)
        return Moves(start, runs.last, bases, room, rows, shifts)

    def calls(self) -> Calls:
        """The calls at their present positions."""
        places = torch.tensor(self.start.positions, device=self.shifts.device)
        return Calls.at(list((places + self.room * self.shifts).clamp(0, self.last)))

    def moved(self) -> tuple[Tensor, ...]:
        """The present rows."""
        each = zip(self.start.rows, self.bases, self.rows, strict=True)
        return tuple(row + base @ move for row, base, move in each)


def _directions(runs: Trajectories, start: Placed) -> list[Tensor]:
    """Per row, a matrix whose columns combine its features to orthogonal ones of the latents' own size."""
    found: list[Tensor] = []

    def row_of(number: int, features: list[Tensor]) -> Tensor:
        row = start.rows[number]
        matrix = torch.stack([f.flatten() for f in features], dim=-1).double()[:, : len(row)]
        gram = matrix.T @ matrix / matrix[:, 0].square().sum()
        gram = gram + DAMPING * torch.diag(torch.diag(gram).clamp_min(DAMPING))
        found.append(torch.linalg.inv(torch.linalg.cholesky(gram)).T.to(row.dtype))
        return row

    with torch.no_grad():
        walk(runs, Calls.at_numbers(start.positions, runs), row_of)
    return found
