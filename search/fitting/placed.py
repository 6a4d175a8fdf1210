"""Placed calls with their fitted rows, and the error that they leave."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from search.fitting.rows import run_chain

if TYPE_CHECKING:
    from search.fitting.rows import Calls, Chain
    from search.fitting.trajectories import Trajectories


@dataclass(frozen=True)
class Placed:
    """Calls, their rows and their error.

    Attributes:
        positions: of the calls.
        chain: their rows, and what these make of the pictures that they are fitted on.
        error: `overall` relative L2 of the final latents of all pictures: rows are a few numbers, so
            those that they were fitted on count too; infinite where one of them is not finite.
    """

    positions: tuple[float, ...]
    chain: Chain
    error: float


def evaluate(fitted_on: Trajectories, held_out: Trajectories, calls: Calls, chain: Chain) -> Placed:
    """`chain`, made of `fitted_on`, with its error on these pictures and others."""
    others = held_out.error(run_chain(held_out, calls, chain.rows))
    error = float(overall(torch.cat([fitted_on.error(chain.final), others])))
    return Placed(
        tuple(map(float, calls.positions)), chain, error if math.isfinite(error) else math.inf
    )


def best_of(*placed: Placed) -> Placed:
    """The one with the least error, the first of equal ones."""
    return min(placed, key=lambda each: each.error)


def robust_weights(errors: Tensor) -> Tensor:
    """Weights `[S]` that limit the influence of outlier pictures on the fit."""
    errors = errors.detach()
    return 1 / (1 + errors / errors.median().clamp_min(1e-12))


def overall(errors: Tensor) -> Tensor:
    """One number `[]` for errors `[S]`: the square of the mean of their square roots.

    In a mean, which few pictures go astray, and how far, would decide alone, and that is mostly chance.
    """
    return errors.clamp_min(1e-12).sqrt().mean().square()
