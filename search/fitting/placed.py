"""Placed calls with their fitted rows, and the error that they leave."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from search.fitting.rows import HISTORY, Calls, fit_chain, run_chain

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

    from search.fitting.trajectories import Trajectories


@dataclass(frozen=True)
class Placed:
    """Calls, their rows and their error.

    Attributes:
        positions: of the calls.
        rows: per call, as in a `Chain`.
        error: `overall` relative L2 of the final latents of some pictures, which in results no row was fitted
            to; infinite where one of them is not finite.
        errors: the same of the pictures of each guidance scale.
    """

    positions: tuple[float, ...]
    rows: tuple[Tensor, ...]
    error: float
    errors: tuple[float, ...] = ()


def evaluate(runs: Trajectories, calls: Calls, rows: tuple[Tensor, ...]) -> Placed:
    """`rows` with their error in the place of `runs`."""
    with torch.no_grad():
        found = runs.error(run_chain(runs, calls, rows))
    positions = tuple(float(position) for position in calls.positions)
    error = float(overall(found))
    each = tuple(float(overall(found[mask])) for mask in runs.masks())
    return Placed(positions, rows, error if math.isfinite(error) else math.inf, each)


def assess(
    fitted_on: Trajectories,
    held_out: Trajectories,
    positions: Sequence[float],
    *,
    history: int = HISTORY,
    unchanged: Container[int] = (),
) -> Placed:
    """Fit rows at `positions` on some runs, twice for robust weights, and evaluate them on others."""
    calls = Calls.at_numbers(positions, fitted_on)
    with torch.no_grad():
        first = fit_chain(fitted_on, calls, history=history, unchanged=unchanged)
        weights = robust_weights(fitted_on.error(first.final))
        chain = fit_chain(fitted_on, calls, history=history, weights=weights, unchanged=unchanged)
    return evaluate(held_out, calls, chain.rows)


def best_of(*placed: Placed) -> Placed:
    """The one with the least error, the first of equal ones."""
    return min(placed, key=lambda each: each.error)


def robust_weights(errors: Tensor) -> Tensor:
    """Weights `[S]` that limit the influence of outlier pictures on the fit."""
    return 1 / (1 + errors / errors.median().clamp_min(1e-12))


def overall(errors: Tensor) -> Tensor:
    """One number `[]` for errors `[S]`: the square of the mean of their square roots.

    In a mean, which few pictures go astray, and how far, would decide alone, and that is mostly chance.
    """
    return errors.clamp_min(1e-12).sqrt().mean().square()
