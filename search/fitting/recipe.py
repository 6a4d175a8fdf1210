"""Our recipe: few calls, placed through the fit. See docs/recipe.md for what was tried."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from search.errors import SearchError
from search.fitting.placement import growth_candidates, measure_growth, measure_misses, place
from search.fitting.refine import Placed, assess, refine
from search.fitting.rows import table_of
from search.fitting.trajectories import sample_trajectories
from search.sampler import FittedSampler

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from search.fitting.trajectories import Trajectories
    from search.model.pipeline import Pipeline
    from search.subnet import SubNet

PROBED = 8
"""Pictures with which the growth of errors is measured."""


@dataclass(frozen=True)
class Effort:
    """How much work to do.

    Attributes:
        fitted_on: pictures to fit and take gradients on.
        held_out: other pictures, to choose by.
        iterations: of the gradient search, per keep.
        every: how often it is judged on held-out pictures.
    """

    fitted_on: int = 24
    held_out: int = 12
    iterations: int = 20
    every: int = 5


def place_calls(
    pipeline: Pipeline,
    full: SubNet,
    keeps: Sequence[float],
    prompts: Sequence[str],
    *,
    effort: Effort = Effort(),  # noqa: B008 - frozen
    reference_steps: int | None = None,
    seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> list[SubNet]:
    """One SubNet per keep: as many whole calls as it pays for, at times and with rows of their own.

    Args:
        pipeline: with its weights loaded and the scheduler of `full`.
        full: runs everything: blocks, sampler, guidance.
        keeps: fractions of the full sampler's calls, largest allowed.
        prompts: to calibrate on, repeated with other noise if they are few.
        effort: how much work to do.
        reference_steps: inference steps of the sampler to come close to; None is the full sampler's.
        seed: of the noise.
        progress: told what is being done.

    Raises:
        SearchError: a keep pays for no call.
    """
    counts = [_calls(keep, full.full_calls) for keep in keeps]
    binding = full.binding
    runs: list[Trajectories] = []
    texts = [prompts[i % len(prompts)] for i in range(effort.fitted_on + effort.held_out)]
    for part, number in ((texts[: effort.fitted_on], 0), (texts[effort.fitted_on :], 1)):
        runs.append(
            sample_trajectories(
                pipeline,
                part,
                steps=reference_steps or binding.inference_steps,
                guidance=full.guidance,
                latent_shape=binding.latent_shape,
                seed=2 * seed + number,
                progress=lambda done, total: progress(f"full sampler: call {done} of {total}"),
            )
        )
    fitted_on, held_out = runs
    progress("growth of errors")
    misses = measure_misses(fitted_on)
    growth = measure_growth(fitted_on.first_pictures(PROBED), misses)
    most = min(max(counts), len(misses.positions))
    plans = [place(misses, each, most) for each in growth_candidates(growth)]
    made = {}
    for count in sorted(set(counts)):
        starts: list[Sequence[float]] = [plan[count - 1] for plan in plans if count <= most]
        starts.append(np.linspace(0, fitted_on.last, count, endpoint=count > most).tolist())
        placed = _search(fitted_on, held_out, starts, effort, progress)
        made[count] = _subnet(full, fitted_on, placed)
    return [
        dataclasses.replace(made[count], method=f"dip-go keep {keep:g}")
        for keep, count in zip(keeps, counts, strict=True)
    ]


def _search(
    fitted_on: Trajectories,
    held_out: Trajectories,
    starts: Sequence[Sequence[float]],
    effort: Effort,
    progress: Callable[[str], None],
) -> Placed:
    """Judge the starts and refine the best."""
    count = len(starts[0])
    progress(f"{count} calls: {len(starts)} starts")
    judged = [assess(fitted_on, held_out, start) for start in starts]
    start = min(judged, key=lambda placed: placed.error)

    def report(iteration: int, error: float) -> None:
        progress(f"{count} calls: iteration {iteration} of {effort.iterations}, error {error:.4f}")

    return refine(
        fitted_on,
        held_out,
        start,
        iterations=effort.iterations,
        every=effort.every,
        progress=report,
    )


def _subnet(full: SubNet, runs: Trajectories, placed: Placed) -> SubNet:
    count = len(placed.positions)
    timesteps = [float(runs.timestep_at(torch.tensor(p))) for p in placed.positions]
    table = table_of(
        placed.chain.rows,
        runs.first,
        steps=range(count),
        predicts=(True,) * count,
        total=count,
    )
    return dataclasses.replace(
        full,
        actions=full.actions[:1] * count,
        fitted=FittedSampler(tuple(timesteps), table),
    )


def _calls(keep: float, full_calls: int) -> int:
    count = int(keep * full_calls + 1e-9)
    if count < 1:
        msg = f"--keep {keep} of {full_calls} calls is less than one call; keep more"
        raise SearchError(msg)
    return count
