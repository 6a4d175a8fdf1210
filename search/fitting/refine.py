"""Gradient search of the call times, through the fitted rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from search.fitting.rows import Calls, Chain, fit_chain, run_chain

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from search.fitting.trajectories import Trajectories

RATE = 0.05
"""Of Adam, on the logarithms of the gaps between calls."""


@dataclass(frozen=True)
class Placed:
    """Calls, their rows, and how good they are.

    Attributes:
        positions: of the calls.
        chain: fitted there.
        error: `overall` relative L2 of the final latents of all pictures: rows are a few numbers, so
            those that they were fitted on count too.
    """

    positions: tuple[float, ...]
    chain: Chain
    error: float


def robust_weights(errors: Tensor) -> Tensor:
    """Weights `[S]` by which pictures that went astray do not spoil the fit for the others."""
    errors = errors.detach()
    return 1 / (1 + errors / errors.median().clamp_min(1e-12))


def overall(errors: Tensor) -> Tensor:
    """One number `[]` for errors `[S]`: the square of the mean of their square roots.

    In a mean, which few pictures go astray, and how far, would decide alone, and that is mostly chance.
    """
    return errors.clamp_min(1e-12).sqrt().mean().square()


def assess(fitted_on: Trajectories, held_out: Trajectories, positions: Sequence[float]) -> Placed:
    """Fit rows at `positions` on some runs, twice for robust weights, and judge them on all."""
    calls = Calls.at([torch.tensor(p, device=fitted_on.noise.device) for p in positions])
    with torch.no_grad():
        first = fit_chain(fitted_on, calls)
        weights = robust_weights(fitted_on.error(first.final))
        chain = fit_chain(fitted_on, calls, weights=weights)
        others = held_out.error(run_chain(held_out, calls, chain.rows))
        error = overall(torch.cat([fitted_on.error(chain.final), others]))
    return Placed(tuple(map(float, positions)), chain, float(error))


def refine(
    fitted_on: Trajectories,
    held_out: Trajectories,
    start: Placed,
    *,
    iterations: int,
    every: int,
    batch: int,
    seed: int = 0,
    progress: Callable[[int, float], None] = lambda _iteration, _loss: None,
) -> Placed:
    """Move the calls so that the final latents come closer to the full sampler's.

    The loss is the logarithm of the `overall` error of some of the pictures, other ones in each
    iteration; every row is a closed-form function of the positions, so gradients flow through the fit,
    the latents and the timesteps. The best on all pictures is returned.

    Args:
        fitted_on: runs to fit and to take gradients on.
        held_out: other runs, to choose the best iteration with.
        start: where to begin.
        iterations: of Adam, with a cosine schedule.
        every: how often to judge on all pictures.
        batch: pictures per iteration.
        seed: of their order.
        progress: told the number of the iteration and the error.
    """
    if len(start.positions) < 2:
        return start
    gaps = torch.tensor(start.positions).diff(append=torch.tensor([float(fitted_on.last)]))
    # The last gap is from the last call to the last position, and may be nothing.
    logits = gaps.clamp_min(0.05).log().to(fitted_on.noise.device).requires_grad_()
    adam = torch.optim.Adam([logits], lr=RATE, betas=(0.8, 0.95))
    best = start
    batches = fitted_on.batches(batch, seed)
    for iteration in range(iterations):
        for group in adam.param_groups:
            group["lr"] = RATE * (0.05 + 0.475 * (1 + math.cos(math.pi * iteration / iterations)))
        calls = Calls.at(positions_of(logits, fitted_on.last))
        runs = next(batches)
        error = overall(runs.error(fit_chain(runs, calls).final))
        loss = error.log()
        adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_([logits], 1.0)
        adam.step()
        progress(iteration + 1, float(error.detach()))
        if iteration + 1 == iterations or (iteration + 1) % every == 0:
            moved = [float(p) for p in positions_of(logits.detach(), fitted_on.last)]
            best = min(best, assess(fitted_on, held_out, moved), key=lambda p: p.error)
    return best


def positions_of(logits: Tensor, last: int) -> list[Tensor]:
    """Increasing positions from 0 on, one per gap; all gaps together reach to `last`."""
    gaps = torch.softmax(logits, dim=0) * last
    return list(torch.cat([torch.zeros_like(gaps[:1]), gaps[:-1].cumsum(0)]))
