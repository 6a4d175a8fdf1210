"""Gradient descent on what decides the final latents of a few calls."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from search.fitting.placed import best_of, overall

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from search.fitting.placed import Placed
    from search.fitting.trajectories import Trajectories

BETAS = (0.8, 0.95)
"""Of Adam: short averages, as there are few iterations."""
LEAST = 0.05
"""Of the learning rate, at the end."""


@dataclass(frozen=True)
class Schedule:
    """How long to descend.

    Attributes:
        iterations: of Adam; the learning rate falls by a cosine.
        every: iterations between two evaluations on held-out pictures.
        batch: pictures per iteration, other ones in each.
        seed: of their order.
    """

    iterations: int
    every: int
    batch: int
    seed: int = 0


def descend(
    rates: Mapping[Tensor, float],
    final_of: Callable[[Trajectories], Tensor],
    current: Callable[[], Placed],
    runs: Trajectories,
    start: Placed,
    schedule: Schedule,
    progress: Callable[[int, float], None],
) -> Placed:
    """Lower the logarithm of the `overall` error of the final latents; returns the best that was evaluated.

    Args:
        rates: parameters, which change in place, and their learning rates.
        final_of: runs -> final latents `[S, ...]`, differentiable in the parameters.
        current: what the parameters stand for now, evaluated on held-out pictures.
        runs: of the full sampler, to take gradients on.
        start: what the parameters stand for at first.
        schedule: how long.
        progress: called with the number of the iteration and its error.
    """
    adam = torch.optim.Adam([{"params": [p], "lr": lr} for p, lr in rates.items()], betas=BETAS)
    half = (1 - LEAST) / 2
    cosine = torch.optim.lr_scheduler.LambdaLR(
        adam, lambda i: LEAST + half * (1 + math.cos(math.pi * i / max(1, schedule.iterations)))
    )
    best = start
    batches = runs.batches(schedule.batch, schedule.seed)
    for iteration in range(1, schedule.iterations + 1):
        batch = next(batches)
        error = overall(batch.error(final_of(batch)))
        adam.zero_grad()
        error.log().backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(list(rates), 1.0)
        adam.step()
        cosine.step()
        progress(iteration, float(error.detach()))
        if iteration == schedule.iterations or iteration % schedule.every == 0:
            best = best_of(best, current())
    return best
