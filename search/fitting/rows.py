"""Least-squares rows of a sampler: at each call, from what is known to the next call's latents."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from search.core.sampler import SamplerTable
from search.model.scheduler import combine

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from search.fitting.trajectories import Trajectories

HISTORY = 3
"""How many noise predictions a least-squares row reads; more do not help (see docs/recipe.md)."""
RIDGE = 1e-9
"""Relative to each feature's own square sum."""


@dataclass(frozen=True)
class Chain:
    """A few calls with rows of their own.

    Attributes:
        final: latents, `[S, ...]`.
        rows: per call, the weights of its input and of the newest predictions, newest first; each of them
            for every guidance scale, where the pictures have several.
    """

    final: Tensor
    rows: tuple[Tensor, ...]


@dataclass(frozen=True)
class Calls:
    """Which calls a sampler makes.

    Attributes:
        positions: of each, in the full sampler's timesteps, `[]`; the first is mostly 0.
        predicts: whether each makes a new noise prediction, or only fills caches.
    """

    positions: tuple[Tensor, ...]
    predicts: tuple[bool, ...]

    @staticmethod
    def at(positions: Sequence[Tensor]) -> Calls:
        """Calls that all predict."""
        return Calls(tuple(positions), (True,) * len(positions))

    @staticmethod
    def at_numbers(positions: Sequence[float], runs: Trajectories) -> Calls:
        """The same at plain numbers, on the device of `runs`."""
        return Calls.at([torch.tensor(p, device=runs.noise.device) for p in positions])


def fit_chain(
    runs: Trajectories,
    calls: Calls,
    *,
    history: int = HISTORY,
    weights: Tensor | None = None,
) -> Chain:
    """Fit the rows call by call, each to the full sampler's latents at the next call, or its final ones.

    Our own latents are fed forward, so that later rows correct earlier errors. Differentiable in the
    positions.

    Args:
        runs: of the full sampler.
        calls: to make.
        history: noise predictions per row.
        weights: of the pictures in the fit, `[S]`; None weighs them equally.
    """
    rows: list[Tensor] = []

    def fit(number: int, features: list[Tensor]) -> Tensor:
        is_last = number + 1 == len(calls.positions)
        target = runs.final if is_last else runs.latents_at(calls.positions[number + 1])
        rows.append(least_squares(features[: (1 + history) * runs.scale_count], target, weights))
        return rows[-1]

    final = walk(runs, calls, fit)
    return Chain(final, tuple(rows))


def run_chain(runs: Trajectories, calls: Calls, rows: Sequence[Tensor]) -> Tensor:
    """The final latents `[S, ...]` of other runs with given rows."""
    return walk(runs, calls, lambda number, _: rows[number])


def walk(runs: Trajectories, calls: Calls, row_of: Callable[[int, list[Tensor]], Tensor]) -> Tensor:
    """The final latents `[S, ...]`.

    Args:
        runs: their noise and prompts.
        calls: to make.
        row_of: the number of a call and its features, the input and all predictions, newest first, each
            split by guidance scale -> the row, of the first of these.
    """
    sample, predictions = runs.first * runs.noise, list[Tensor]()
    for number, position in enumerate(calls.positions):
        timestep = runs.timestep_at(position)
        made = runs.predictor(sample, timestep)
        if calls.predicts[number]:
            predictions = [*runs.split(made), *predictions]
        features = [*runs.split(sample), *predictions]
        sample = combine(row_of(number, features), features)
    return sample


def least_squares(
    features: Sequence[Tensor], target: Tensor, weights: Tensor | None = None
) -> Tensor:
    """The combination of features `[S, ...]` closest to `target` `[S, ...]`; float64, differentiable.

    Args:
        features: what is combined.
        target: what is wanted.
        weights: of each of the S pictures; None weighs them equally.
    """
    matrix = torch.stack([f.flatten(1) for f in features], dim=-1).double()
    wanted = target.flatten(1).double()
    if weights is not None:
        scale = weights.double()[:, None]
        matrix, wanted = matrix * scale[..., None], wanted * scale
    matrix, wanted = matrix.flatten(0, 1), wanted.flatten()
    gram = matrix.T @ matrix
    gram = gram + RIDGE * torch.diag(torch.diag(gram)).detach()
    found: Tensor = torch.linalg.solve(gram, matrix.T @ wanted)
    return found.to(target.dtype)


def table_of(
    rows: Sequence[Tensor],
    first: float,
    *,
    steps: Sequence[int],
    predicts: Sequence[bool],
    total: int,
) -> SamplerTable:
    """Rows from call to call as a table over the noise and the predictions of `total` steps.

    Args:
        rows: of a `Chain`.
        first: what the noise is multiplied with to be the first input.
        steps: of the calls; the other steps get rows of zeros.
        predicts: which calls make a prediction.
        total: number of steps.
    """
    inputs = np.zeros((total, 1 + total))
    current = np.zeros(1 + total)
    current[0] = first
    columns: list[int] = []
    for step, is_new, row in zip(steps, predicts, rows, strict=True):
        inputs[step] = current
        columns = [1 + step, *columns] if is_new else columns
        weights = row.double().numpy(force=True)
        current = weights[0] * current
        for column, weight in zip(columns, weights[1:], strict=False):
            current[column] += weight
    return SamplerTable(inputs, current)


def rows_of(table: SamplerTable) -> tuple[Tensor, ...]:
    """What `table_of` made `table` of, where every step makes a prediction; the rows read all of them.

    The noise is what an input has besides predictions, so the next input holds it through that one.
    """
    rows = []
    for call, (now, then) in enumerate(itertools.pairwise([*table.inputs, table.final])):
        kept = then[0] / now[0]
        left = then - kept * now
        rows.append(torch.tensor([kept, *left[1 : call + 2][::-1]], dtype=torch.float32))
    return tuple(rows)
