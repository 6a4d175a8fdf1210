"""How the final latents change with rows and timesteps: finite differences, added up to normal equations."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from search.fitting.rows import Calls, State, run_chain
from search.model.scheduler import combine

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from search.fitting.moves import Moves
    from search.fitting.trajectories import Trajectories

SHIFT = 0.1
"""The part of their room over which differences by timesteps are taken. Denoisers were trained at whole
timesteps, and what they make of fractions swings around the trend; see docs/recipe.md."""
TINY = 1e-12
"""The least size of a feature: one of zeros has no effect, whatever its coefficient."""


@dataclass(frozen=True)
class NormalEquations:
    """Of the linear least-squares problem whose unknowns are a step.

    Attributes:
        matrix: `[N, N]`, float64.
        vector: `[N]`: half of the gradient.
    """

    matrix: Tensor
    vector: Tensor

    @property
    def is_finite(self) -> bool:
        """Whether all runs that differences were taken of stayed finite."""
        return bool(self.matrix.isfinite().all() and self.vector.isfinite().all())

    def step(self, damping: float) -> Tensor:
        """The step `[N]` that lowers the linear model most; the more damping, the shorter."""
        sums = torch.diag(self.matrix)
        held = damping * sums + (sums == 0)  # What nothing depends on stays.
        found: Tensor = -torch.linalg.solve(self.matrix + torch.diag(held), self.vector)
        return found


def normal_equations(
    runs: Trajectories, moves: Moves, weights_of: Callable[[Tensor], Tensor], small: float
) -> NormalEquations:
    """The normal equations of what is left between the final latents and the full sampler's.

    Every column is the difference of two runs, so there is no gradient to keep tensors for. Where the
    coefficients of a row change, the calls before the row stay.

    Args:
        runs: to take differences on.
        moves: what can change; a step's entries are the unknowns.
        weights_of: errors of pictures `[S]` -> their weights in the sum of squares.
        small: the change that differences by coefficients are taken over, relative to the latents.
    """
    size = moves.size
    zero = torch.zeros(size, dtype=torch.float64, device=runs.noise.device)
    matrix, vector = torch.zeros(size, size).to(zero), zero.clone()
    with torch.no_grad():
        for part in runs.calls():
            columns, left, errors = _columns(part, moves, small)
            # Picture by picture, so that little is in float64 at a time.
            scales = weights_of(errors).sqrt() / part.final.flatten(1).norm(dim=1)
            for picture, scale in enumerate(scales.double()):
                each = torch.stack([column[picture].flatten() for column in columns]).double()
                rest = left[picture].flatten().double()
                matrix += scale.square() * (each @ each.T)
                vector += scale.square() * (each @ rest)
    return NormalEquations(matrix, vector)


def _columns(runs: Trajectories, moves: Moves, small: float) -> tuple[list[Tensor], Tensor, Tensor]:
    """Per unknown, how the final latents change; what is left of them; and the errors of the pictures."""
    calls, rows = Calls.at(list(moves.places)), moves.rows
    passed, final = _run(runs, calls, rows)
    columns: list[Tensor] = []
    for row, free, (_, after, features) in zip(rows, moves.free, passed, strict=True):
        made = combine(row, features)
        # Pictures have one guidance scale each, so coefficients of all scales are tried together.
        for first in range(0, free, runs.scale_count):
            feature = torch.stack(features[first : first + runs.scale_count]).sum(dim=0)
            change = small * made.float().norm() / feature.float().norm().clamp_min(TINY)
            other = run_chain(runs, calls, rows, replace(after, sample=made + change * feature))
            columns += runs.split((other - final) / change)
    for place, call in enumerate(moves.first_calls):
        ahead = moves.places[call] + SHIFT * moves.room[place] <= runs.last
        change = SHIFT if ahead else -SHIFT
        stays = moves.room[place] == 0
        shifted = moves.shifted(place, change)
        other = final if stays else run_chain(runs, shifted, rows, passed[call][0])
        columns.append((other - final) / change)
    return columns, final - runs.final, runs.error(final)


def _run(
    runs: Trajectories, calls: Calls, rows: Sequence[Tensor]
) -> tuple[list[tuple[State, State, list[Tensor]]], Tensor]:
    """Per call, the states before and after it and the features of its row; and the final latents."""
    passed, state = [], State.first(runs)
    for row in rows:
        after, features = state.called(runs, calls)
        passed.append((state, after, features))
        state = replace(after, sample=combine(row, features))
    return passed, state.sample
