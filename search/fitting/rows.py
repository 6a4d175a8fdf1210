"""Least-squares rows of a sampler: at each call, from what is known to the next call's latents."""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from search.core.sampler import SamplerTable
from search.model.scheduler import combine

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Sequence

    from search.fitting.gated_calls import GatedPredictor
    from search.fitting.trajectories import Trajectories
    from search.model.predictor import Predictor

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
    unchanged: Container[int] = (),
) -> Chain:
    """Fit the rows call by call, each to the full sampler's latents at the next call, or its final ones.

    Our own latents are fed forward, so that later rows correct earlier errors.

    Args:
        runs: of the full sampler.
        calls: to make.
        history: noise predictions per row.
        weights: of the pictures in the fit, `[S]`; None weighs them equally.
        unchanged: calls after which the latents stay as they are.
    """
    rows: list[Tensor] = []

    def fit(number: int, features: list[Tensor]) -> Tensor:
        is_last = number + 1 == len(calls.positions)
        if number in unchanged:
            rows.append(features[0].new_ones(runs.scale_count))
            return rows[-1]
        target = runs.final if is_last else runs.latents_at(calls.positions[number + 1])
        rows.append(least_squares(features[: (1 + history) * runs.scale_count], target, weights))
        return rows[-1]

    final = walk(runs, calls, fit)
    return Chain(final, tuple(rows))


def run_chain(
    runs: Trajectories, calls: Calls, rows: Sequence[Tensor], state: State | None = None
) -> Tensor:
    """The final latents `[S, ...]` of other runs with given rows, from a state on."""
    return walk(runs, calls, lambda number, _: rows[number], state)


@dataclass(frozen=True)
class State:
    """A run between two calls.

    Attributes:
        number: of the next call.
        sample: its input, `[S, ...]`.
        predictions: so far, newest first, each split by guidance scale.
        predictor: as the next call finds it; what gated calls hand on is in it.
    """

    number: int
    sample: Tensor
    predictions: tuple[Tensor, ...]
    predictor: Predictor | GatedPredictor

    @staticmethod
    def first(runs: Trajectories) -> State:
        """Before the first call."""
        return State(0, runs.first * runs.noise, (), runs.predictor)

    def called(self, runs: Trajectories, calls: Calls) -> tuple[State, list[Tensor]]:
        """After the next call, its row not applied yet; and the features of that row."""
        predictor = copy.copy(self.predictor)
        made = predictor(self.sample, runs.timestep_at(calls.positions[self.number]))
        new = runs.split(made) if calls.predicts[self.number] else []
        predictions = (*new, *self.predictions)
        after = State(self.number + 1, self.sample, predictions, predictor)
        return after, [*runs.split(self.sample), *predictions]


def walk(
    runs: Trajectories,
    calls: Calls,
    row_of: Callable[[int, list[Tensor]], Tensor],
    state: State | None = None,
) -> Tensor:
    """The final latents `[S, ...]`.

    Args:
        runs: their noise and prompts.
        calls: to make.
        row_of: the number of a call and its features, the input and all predictions, newest first, each
            split by guidance scale -> the row, of the first of these.
        state: where to begin; None: before the first call.
    """
    state = state or State.first(runs)
    while state.number < len(calls.positions):
        number = state.number
        after, features = state.called(runs, calls)
        state = replace(after, sample=combine(row_of(number, features), features))
    return state.sample


def least_squares(
    features: Sequence[Tensor], target: Tensor, weights: Tensor | None = None
) -> Tensor:
    """The combination of features `[S, ...]` closest to `target` `[S, ...]`; in float64.

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
    gram = gram + RIDGE * torch.diag(torch.diag(gram))
    found: Tensor = torch.linalg.solve(gram, matrix.T @ wanted)
    return found.to(target.dtype)


def changes_nothing(row: Tensor, scales: int) -> bool:
    """Whether a row hands its input on, at each of the guidance scales."""
    return len(row) == scales and bool((row == 1).all())


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
