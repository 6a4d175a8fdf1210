"""The method carve: few calls, placed through the fit, then refined; see docs/recipe.md."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from search.core.errors import SearchError
from search.core.sampler import FittedSampler
from search.fitting.descent import Schedule
from search.fitting.placed import best_of
from search.fitting.placement import (
    measure_local_errors,
    measure_propagation,
    place,
    propagation_candidates,
)
from search.fitting.records import CarveRun
from search.fitting.refine_coefficients import refine_coefficients
from search.fitting.refine_positions import assess, refine_positions
from search.fitting.rows import table_of
from search.fitting.scheduled import scheduled
from search.fitting.trajectories import CHUNK, sample_both

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from search.core.subnet import SubNet
    from search.fitting.placed import Placed
    from search.fitting.trajectories import Trajectories
    from search.model.pipeline import Pipeline

RECIPE = 2
"""Raised when the same effort gives another result, so that no other version resumes a search."""
SPACINGS = (1.0, 0.8)
"""Exponents of plain spacings to begin at: even, and denser at the end."""
PROBED = 8
"""Pictures with which the propagation of errors is measured."""
COMPARED = 24
"""Pictures that starts are fitted on to be compared."""

BACKWARD = 4
"""What a call takes whose gradient is wanted, which is made twice, as a multiple of one without."""


@dataclass(frozen=True)
class Effort:
    """How much work to do.

    Attributes:
        fitted_on: pictures to fit and take gradients on.
        held_out: other pictures, to choose by.
        work: calls times pictures of one gradient, so that few calls, where most is left to gain and
            most depends on chance, see more pictures.
        iterations: of the gradient search, per keep.
        every: iterations between two evaluations on all pictures.
    """

    fitted_on: int = 72
    held_out: int = 24
    work: int = 240
    iterations: int = 28
    every: int = 7

    @property
    def placing(self) -> int:
        """Iterations that move the calls, with rows by least squares; the others move all coefficients."""
        return self.iterations // 4

    def schedule(self, count: int, iterations: int, seed: int) -> Schedule:
        """Of a gradient search with `count` calls."""
        return Schedule(iterations, self.every, max(CHUNK, self.work // count), seed)

    def denoiser_calls(self, full_calls: int, count: int) -> float:
        """About how many calls of the denoiser, one for each picture, a search for `count` calls takes."""
        pictures = self.fitted_on + self.held_out
        assessed = count * (2 * self.fitted_on + self.held_out)
        starts = (3 + len(SPACINGS)) * count * (2 * min(COMPARED, self.fitted_on) + self.held_out)
        gradients = self.iterations * max(CHUNK, self.work // count) * count * BACKWARD
        looks = self.iterations // self.every + 2
        return pictures * full_calls + PROBED * 90 + starts + looks * assessed + gradients

    @staticmethod
    def of(pictures: int | None, iterations: int | None) -> Effort:
        """The given number of pictures, or the default. A quarter, at least one, is held out."""
        usual = Effort()
        count = usual.fitted_on + usual.held_out if pictures is None else pictures
        held_out = max(1, count // 4)
        return replace(
            usual,
            fitted_on=count - held_out,
            held_out=held_out,
            iterations=usual.iterations if iterations is None else iterations,
        )


def place_calls(
    pipeline: Pipeline,
    full: SubNet,
    keeps: Sequence[float],
    prompts: Sequence[str],
    *,
    effort: Effort = Effort(),
    reference_steps: int | None = None,
    runs: tuple[Trajectories, Trajectories] | None = None,
    seed: int = 0,
    folder: Path | None = None,
    resume: bool = False,
    report: Callable[..., None] = lambda _text, _share=None: None,
) -> list[SubNet]:
    """One SubNet per keep: as many whole calls as its budget allows, with fitted timesteps and rows.

    Args:
        pipeline: with its weights loaded and the scheduler of `full`.
        full: runs everything: blocks, sampler, guidance.
        keeps: fractions of the full sampler's calls, largest allowed.
        prompts: to calibrate on, repeated with other noise if they are few.
        effort: how much work to do.
        reference_steps: inference steps of the sampler to come close to; None is the full sampler's.
        runs: of that sampler, to fit to and to choose by, if they are there already.
        seed: of the noise.
        folder: for the log, its plot and finished SubNets; None writes nothing.
        resume: take finished SubNets from `folder`.
        report: called with a message and the completed fraction.

    Raises:
        SearchError: a keep pays for no call.
    """
    counts = [_calls(keep, full.full_calls) for keep in keeps]
    run = None
    if folder is not None:
        identity = _identity(full, prompts, effort, reference_steps, seed)
        run = CarveRun(folder, {**identity, "dtype": pipeline.dtype})
        run.start(resume=resume)
    done = {count: run.finished(count) if run is not None else None for count in set(counts)}
    made = {count: subnet for count, subnet in done.items() if subnet is not None}
    missing = sorted(set(counts) - set(made))
    if missing:
        fitted_on, held_out = runs or sample_both(
            pipeline,
            full,
            prompts,
            fitted_on=effort.fitted_on,
            held_out=effort.held_out,
            reference_steps=reference_steps,
            seed=seed,
            report=report,
        )
        starts = _starts(fitted_on, missing, report)
        for count in missing:
            plain = scheduled(pipeline, full, fitted_on=fitted_on, held_out=held_out, count=count)
            placed = _search(fitted_on, held_out, starts[count], plain, effort, seed, run, report)
            made[count] = subnet_of(full, fitted_on, placed)
            if run is not None:
                run.save(count, made[count])
    return [
        replace(made[count], method=f"carve keep {keep:g}")
        for keep, count in zip(keeps, counts, strict=True)
    ]


def _identity(
    full: SubNet, prompts: Sequence[str], effort: Effort, reference_steps: int | None, seed: int
) -> dict[str, Any]:
    """What a search is resumed with: anything that changes its result but the keeps."""
    return {
        "recipe": RECIPE,
        **vars(effort),
        "reference_steps": reference_steps,
        "seed": seed,
        "binding": full.binding.to_json(),
        "guidance": full.guidance,
        "blocks": full.topology.blocks,
        "prompts": list(prompts),
    }


def _starts(
    fitted_on: Trajectories, counts: Sequence[int], report: Callable[..., None]
) -> dict[int, list[list[float]]]:
    """Per number of calls, where to begin: the placements, and spacings that need no measurement."""
    report("propagation of errors")
    local = measure_local_errors(fitted_on)
    measured = measure_propagation(fitted_on.first_pictures(PROBED), local)
    most = min(max(counts), len(local.positions))
    plans = [place(local, each, most) for each in propagation_candidates(measured)]
    return {
        count: [
            *([float(i) for i in plan[count - 1]] for plan in plans if count <= most),
            *(_spaced(fitted_on.last, count, power) for power in SPACINGS),
        ]
        for count in counts
    }


def _spaced(last: int, count: int, power: float) -> list[float]:
    """Positions spaced as schedulers do: the end, which has no call, is one after the last."""
    if count > last:
        spaced: list[float] = (last * np.linspace(0, 1, count) ** power).tolist()
        return spaced
    ahead = (last + 1) * np.linspace(0, 1, count, endpoint=False) ** power
    return [min(float(position), last) for position in ahead]


def _search(
    fitted_on: Trajectories,
    held_out: Trajectories,
    starts: Sequence[Sequence[float]],
    plain: Placed | None,
    effort: Effort,
    seed: int,
    run: CarveRun | None,
    report: Callable[..., None],
) -> Placed:
    """Evaluate the starts, move the best, and refine its coefficients or those of the scheduler's own steps."""
    count = len(starts[0])
    report(f"{count} calls: {len(starts)} starts")
    few = fitted_on.some(COMPARED)
    compared = best_of(*(assess(few, held_out, start) for start in starts))
    best = assess(fitted_on, held_out, compared.positions)
    placed = effort.placing if count > 1 else 0

    def tell(iteration: int, error: float) -> None:
        if run is not None:
            run.log(count, iteration, error)
        report(
            f"{count} calls: iteration {iteration} of {effort.iterations}, error {error:.4f}",
            iteration / effort.iterations,
        )

    placing, refining = (
        effort.schedule(count, iterations, seed)
        for iterations in (placed, effort.iterations - placed)
    )
    best = refine_positions(fitted_on, held_out, best, placing, progress=tell)
    return refine_coefficients(
        fitted_on,
        held_out,
        best if plain is None else best_of(best, plain),
        refining,
        progress=lambda iteration, error: tell(placed + iteration, error),
    )


def subnet_of(
    full: SubNet, runs: Trajectories, placed: Placed, method: str | None = None
) -> SubNet:
    """The SubNet of placed calls; `method` says what made it, for people."""
    count = len(placed.positions)
    timesteps = [float(runs.timestep_at(torch.tensor(p))) for p in placed.positions]
    table = table_of(
        placed.chain.rows,
        runs.first,
        steps=range(count),
        predicts=(True,) * count,
        total=count,
    )
    return replace(
        full,
        actions=full.actions[:1] * count,
        fitted=FittedSampler(tuple(timesteps), table),
        method=full.method if method is None else method,
    )


def _calls(keep: float, full_calls: int) -> int:
    count = int(keep * full_calls + 1e-9)
    if count < 1:
        msg = f"--keep {keep} of {full_calls} calls is less than one call; keep more"
        raise SearchError(msg)
    return count
