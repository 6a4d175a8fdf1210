"""Where to call the denoiser: an optimal choice under an additive model of the error, by dynamic programming.

The model is linear algebra on the full sampler's runs. The *local error* is that of the latents at d
after a row was fitted to the true latents and predictions at calls a < b < c. The *propagation* is the
factor by which an error at d is larger at the end. The sum of local errors times their propagation is
minimised over all choices of calls at once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from search.fitting.rows import HISTORY, RIDGE, least_squares
from search.model.scheduler import combine

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from search.fitting.trajectories import Trajectories

GRID = 50
"""Positions to choose from, at most; the size of the tables is its fourth power."""
PROBES = 13
"""Positions at which the propagation is measured, at most."""
NUDGE = 0.02
"""Size of the propagated errors, relative to the noise."""


@dataclass(frozen=True)
class LocalErrors:
    """The error of each row if everything before it is exact.

    Attributes:
        positions: to choose from, `[G]`; the first is 0.
        error: `error[s, d]` is the relative L2 error of the latents at grid point d (G is the end)
            fitted at the calls of state s, `[states, G + 1]`; infinite where d is not after them.
        states: the last three calls as grid points, `[states, 3]`; 0 stands for "none" before the
            first.
    """

    positions: NDArray[np.int64]
    error: NDArray[np.float64]
    states: NDArray[np.int64]


def measure_local_errors(runs: Trajectories) -> LocalErrors:
    """From the Gram matrix of all latents and predictions, each picture scaled to its final latents.

    Each guidance scale has rows of its own: the error is the root of their mean square.
    """
    each = [_local_errors(part) for part in runs.of_each_scale()]
    squares = np.mean([found.error**2 for found in each], axis=0)
    return replace(each[0], error=np.sqrt(squares))


def _local_errors(runs: Trajectories) -> LocalErrors:
    positions = np.unique(np.rint(np.linspace(0, runs.last, min(GRID, runs.last + 1))).astype(int))
    vectors = [*runs.latents[positions], runs.final, *runs.predictions[positions]]
    scale = 1 / runs.final.flatten(1).norm(dim=1)
    flat = torch.stack([(v.flatten(1) * scale[:, None]).flatten() for v in vectors]).double()
    gram = (flat @ flat.T).numpy(force=True) / len(scale)
    count = len(positions)
    grid = np.arange(count)
    a, b, c = (axis.ravel() for axis in np.meshgrid(grid, grid, grid, indexing="ij"))
    kept = ((a < b) & (b < c)) | ((a == 0) & (b == 0))
    states = np.stack([a, b, c], axis=1)[kept]
    error = np.full((len(states), count + 1), np.inf)
    for end in range(1, count + 1):
        # The number of predictions of each state: one at the first call, two at the second.
        history = 1 + (states[:, 2] > 0) + (states[:, 1] > 0)
        for known in range(1, HISTORY + 1):
            rows = np.flatnonzero((history == known) & (states[:, 2] < end))
            calls = states[rows][:, ::-1][:, :known]
            features = np.concatenate([states[rows][:, 2:], count + 1 + calls], axis=1)
            error[rows, end] = _residual(gram, features, end)
    return LocalErrors(positions, error, states)


def _residual(
    gram: NDArray[np.float64], features: NDArray[np.int64], target: int
) -> NDArray[np.float64]:
    """Norms of the residual of `target` after least squares on each row of `features` `[n, m]`."""
    size = features.shape[1]
    matrix = gram[features[:, :, None], features[:, None, :]]
    matrix[:, np.arange(size), np.arange(size)] *= 1 + RIDGE
    side = gram[features, target]
    weights = np.linalg.solve(matrix, side[..., None])[..., 0]
    left: NDArray[np.float64] = np.sqrt(
        np.maximum(gram[target, target] - (weights * side).sum(1), 1e-16)
    )
    return left


def place(local: LocalErrors, propagation: NDArray[np.float64], most: int) -> list[list[int]]:
    """The best positions of 1, 2, ... `most` calls.

    Args:
        local: errors of the rows.
        propagation: of an error at each grid point and the end, `[G + 1]`.
        most: calls, at most the number of positions.
    """
    count = len(local.positions)
    number = np.full((count,) * 3, -1)
    number[tuple(local.states.T)] = np.arange(len(local.states))
    cost = local.error * propagation
    total = np.full(len(local.states), np.inf)
    total[number[0, 0, 0]] = 0
    origins: list[NDArray[np.int64]] = []
    found = []
    for _ in range(most):
        state = int((total + cost[:, count]).argmin())
        found.append([int(local.positions[i]) for i in _path(local, origins, state)])
        total, origin = _advance(local, number, total, cost)
        origins.append(origin)
    return found


def _advance(
    local: LocalErrors,
    number: NDArray[np.int64],
    total: NDArray[np.float64],
    cost: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """One more call: the least total of each state, and the state it comes from."""
    following = np.full(len(total), np.inf)
    origin = np.full(len(total), -1)
    for end in range(1, len(local.positions)):
        before = np.flatnonzero((local.states[:, 2] < end) & np.isfinite(total))
        values = total[before] + cost[before, end]
        after = number[local.states[before, 1], local.states[before, 2], end]
        order = np.argsort(-values)  # the least is written last
        following[after[order]], origin[after[order]] = values[order], before[order]
    return following, origin


def _path(local: LocalErrors, origins: list[NDArray[np.int64]], state: int) -> list[int]:
    path = [int(local.states[state, 2])]
    for origin in reversed(origins):
        state = int(origin[state])
        path.append(int(local.states[state, 2]))
    return path[::-1]


def measure_propagation(runs: Trajectories, local: LocalErrors) -> NDArray[np.float64]:
    """The factor by which a small error of the latents is larger at the end, `[G + 1]`.

    The errors are those that rows make. They are followed through a coarse sampler whose rows are fitted
    to the full one. The result is the geometric mean over a few pictures.
    """
    if runs.last == 0:
        return np.ones(len(local.positions) + 1)
    probes = np.unique(np.rint(np.linspace(0, runs.last, min(PROBES, runs.last + 1))).astype(int))
    rows = [_teacher_row(runs, probes, i) for i in range(len(probes))]
    found = {}
    with torch.no_grad():
        for i in range(1, len(probes)):
            found[int(probes[i])] = _propagation_from(runs, probes, rows, i)
    known = sorted(found)
    inner = np.interp(local.positions, known, [found[p] for p in known])
    return np.append(inner, 1.0)


def _teacher_row(runs: Trajectories, probes: NDArray[np.int64], i: int) -> Tensor:
    is_last = i + 1 == len(probes)
    target = runs.final if is_last else runs.latents[probes[i + 1]]
    return least_squares(_teacher_features(runs, probes, i), target)


def _teacher_features(runs: Trajectories, probes: NDArray[np.int64], i: int) -> list[Tensor]:
    past = [runs.predictions[probes[j]] for j in range(i, max(-1, i - HISTORY), -1)]
    return [runs.latents[probes[i]], *past]


def _propagation_from(
    runs: Trajectories, probes: NDArray[np.int64], rows: list[Tensor], start: int
) -> float:
    """Follow the true latents at a probe and the same with an error, and compare the ends."""
    made = combine(rows[start - 1], _teacher_features(runs, probes, start - 1))
    difference = (made - runs.latents[probes[start]]).flatten(1)
    size = NUDGE * runs.noise.flatten(1).norm(dim=1)
    scale = size / difference.norm(dim=1).clamp_min(1e-30)
    error = (difference * scale[:, None]).view_as(made)
    ends = [
        _follow(runs, probes, rows, start, runs.latents[probes[start]] + offset)
        for offset in (torch.zeros_like(error), error)
    ]
    factors = (ends[1] - ends[0]).flatten(1).norm(dim=1) / size
    return float(factors.clamp_min(1e-6).log().mean().exp())


def _follow(
    runs: Trajectories, probes: NDArray[np.int64], rows: list[Tensor], start: int, sample: Tensor
) -> Tensor:
    features = _teacher_features(runs, probes, start)
    predictions = features[2:]
    for i in range(start, len(probes)):
        predictions = [runs.predictor(sample, runs.timesteps[probes[i]]), *predictions][:HISTORY]
        sample = combine(rows[i], [sample, *predictions])
    return sample


def propagation_candidates(measured: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """The measured propagation, its square root, and none; the search tries all three."""
    return [measured**power for power in (1.0, 0.5, 0.0)]
