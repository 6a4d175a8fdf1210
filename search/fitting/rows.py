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
        rows: per call, the weights of its input and of the newest predictions, newest first. Where the
            weight of a prediction is a polynomial in the guidance scale, there are all its terms. That of
            the input is a number, so that no input is a polynomial of higher degree.
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
        read = features[: 1 + history * (runs.degree + 1)]
        rows.append(least_squares(read, target, weights))
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
        row_of: the number of a call and its features, the input and the terms of all predictions,
            newest first -> the row, of the first of these.
    """
    sample, predictions = runs.first * runs.noise, list[Tensor]()
    for number, position in enumerate(calls.positions):
        timestep = runs.timestep_at(position)
        made = runs.predictor(sample, timestep)
        if calls.predicts[number]:
            predictions = [*runs.terms_of(made), *predictions]
        features = [sample, *predictions]
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


def tables_of(
    rows: Sequence[Tensor],
    first: float,
    *,
    steps: Sequence[int],
    predicts: Sequence[bool],
    total: int,
    degree: int = 0,
) -> tuple[SamplerTable, ...]:
    """Rows from call to call as tables over the noise and the predictions of `total` steps, one per term.

    Args:
        rows: of a `Chain`.
        first: what the noise is multiplied with to be the first input.
        steps: of the calls; the other steps get rows of zeros.
        predicts: which calls make a prediction.
        total: number of steps.
        degree: of the polynomials that the weights of predictions are.
    """
    terms = degree + 1
    inputs = np.zeros((terms, total, 1 + total))
    current = np.zeros((terms, 1 + total))
    current[0, 0] = first
    columns: list[int] = []
    for step, is_new, row in zip(steps, predicts, rows, strict=True):
        inputs[:, step] = current
        columns = [1 + step, *columns] if is_new else columns
        weights = row.double().numpy(force=True)
        current = weights[0] * current
        for column, weight in zip(columns, weights[1:].reshape(-1, terms), strict=False):
            current[:, column] += weight
    return tuple(SamplerTable(*each) for each in zip(inputs, current, strict=True))


def rows_of(tables: Sequence[SamplerTable], degree: int = 0) -> tuple[Tensor, ...]:
    """What `tables_of` made `tables` of, where every step makes a prediction; the rows read all of them.

    The noise is what an input has besides predictions, so the next input holds it through that one.
    Terms up to `degree` that the tables lack are 0.
    """
    every = np.stack([np.vstack([each.inputs, each.final]) for each in tables])
    rows = []
    for call, (now, then) in enumerate(itertools.pairwise(every.swapaxes(0, 1))):
        kept = then[0, 0] / now[0, 0]
        left = np.zeros((call + 1, degree + 1))
        left[:, : len(tables)] = (then - kept * now)[:, 1 : call + 2][:, ::-1].T
        rows.append(torch.tensor([kept, *left.flat], dtype=torch.float32))
    return tuple(rows)
