"""A fitted sampler for any SubNet: the gates stay, the coefficients are calibrated."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from search.core.liveness import unroll
from search.core.sampler import FittedSampler
from search.core.topology import PREDICTION
from search.fitting.placed import robust_weights
from search.fitting.rows import HISTORY, Calls, fit_chain, run_chain, table_of
from search.fitting.trajectories import sample_both
from search.model.reference import gated
from search.model.scheduler import combine

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Sequence

    from torch import Tensor

    from search.core.sampler import SamplerTable, ScaleRange
    from search.core.subnet import SubNet
    from search.core.topology import Target
    from search.fitting.trajectories import Trajectories
    from search.model.pipeline import Pipeline


PICTURES = 16
"""To fit to, and as many to choose by: all in one call, since gates remember one batch."""


@dataclass(frozen=True)
class Fit:
    """What fitting did.

    Attributes:
        subnet: with the fitted sampler, or as it was where that is no better.
        error: mean relative L2 of the final latents of held-out pictures, as returned.
        plain: the same with the scheduler's own rows.
    """

    subnet: SubNet
    error: float
    plain: float


def fit_sampler(
    pipeline: Pipeline,
    subnet: SubNet,
    table: SamplerTable,
    *,
    fitted_on: Trajectories,
    held_out: Trajectories,
) -> Fit:
    """Fit the rows of `subnet` to runs of the full sampler, with several lengths of history.

    Args:
        pipeline: with its weights loaded.
        subnet: its gates.
        table: the sampler it is bound to.
        fitted_on: runs to fit to.
        held_out: runs to choose by.
    """
    fitted_on = fitted_on.first_pictures(len(fitted_on.noise))
    held_out = held_out.first_pictures(len(held_out.noise))
    steps = unroll(subnet).calls
    calls = _calls_of(subnet, steps, fitted_on)
    with torch.no_grad(), gated(pipeline.denoiser, subnet, steps=steps):
        plain = _mean(held_out, run_table(held_out, subnet, table))
        best, best_error = subnet, plain
        for history in range(1, HISTORY + 1):
            first = fit_chain(fitted_on, calls, history=history)
            weights = robust_weights(fitted_on.error(first.final))
            chain = fit_chain(fitted_on, calls, history=history, weights=weights)
            error = _mean(held_out, run_chain(held_out, calls, chain.rows))
            if error < best_error:
                rows = table_of(
                    chain.rows,
                    fitted_on.first,
                    steps=steps,
                    predicts=calls.predicts,
                    total=subnet.steps,
                )
                fitted = FittedSampler(subnet.timesteps, rows)
                best, best_error = dataclasses.replace(subnet, fitted=fitted), error
    return Fit(best, best_error, plain)


def fit_subnets(
    pipeline: Pipeline,
    full: SubNet,
    subnets: Sequence[SubNet],
    prompts: Sequence[str],
    *,
    reference_steps: int | None,
    seed: int,
    scales: ScaleRange | None = None,
    report: Callable[..., None],
) -> list[SubNet]:
    """Each of `subnets` with a sampler fitted to that of `full`, where that helps.

    Gates remember one batch, which has one guidance scale. So for a range of scales rows are fitted at
    each on its own, and are then the polynomial through them.

    Args:
        pipeline: with its weights loaded and the scheduler of all of them.
        full: the sampler to come close to.
        subnets: to fit.
        prompts: to calibrate on.
        reference_steps: fit to a sampler with other inference steps than `full`.
        seed: of the noise.
        scales: the range of guidance scales; None: that of `full` alone.
        report: called with a message and the completed fraction.
    """

    def at(guidance: float) -> list[SubNet]:
        there = dataclasses.replace(full, guidance=guidance)
        return _fitted_at(pipeline, there, subnets, prompts, reference_steps, seed, report)

    if scales is None:
        return at(full.guidance)
    found = [at(guidance) for guidance in scales.fitted_at]
    return [
        _through(pipeline, subnet, dict(zip(scales.fitted_at, each, strict=True)), scales)
        for subnet, *each in zip(subnets, *found, strict=True)
    ]


def _through(
    pipeline: Pipeline, subnet: SubNet, found: dict[float, SubNet], scales: ScaleRange
) -> SubNet:
    """`subnet` with the polynomial through the rows that were fitted at single scales, if any were."""
    if all(each.fitted is None for each in found.values()):
        return subnet
    rows = {
        scale: FittedSampler(subnet.timesteps, pipeline.sampler_of(each))
        for scale, each in found.items()
    }
    return dataclasses.replace(subnet, fitted=FittedSampler.through(rows, scales))


def _fitted_at(
    pipeline: Pipeline,
    full: SubNet,
    subnets: Sequence[SubNet],
    prompts: Sequence[str],
    reference_steps: int | None,
    seed: int,
    report: Callable[..., None],
) -> list[SubNet]:
    """Each of `subnets` with rows fitted at the guidance scale of `full`."""
    fitted_on, held_out = sample_both(
        pipeline,
        full,
        prompts,
        fitted_on=PICTURES,
        held_out=PICTURES,
        reference_steps=reference_steps,
        seed=seed,
        report=report,
    )
    fitted_on, held_out = (runs.first_pictures(PICTURES) for runs in (fitted_on, held_out))
    found = []
    for subnet in subnets:
        binding = subnet.binding
        table = pipeline.sampler(binding.grid, pipeline.size(binding.noise_shape))
        fit = fit_sampler(pipeline, subnet, table, fitted_on=fitted_on, held_out=held_out)
        report(
            f"fitted at guidance {full.guidance:g}: held-out error {fit.error:.4f}, with the scheduler's "
            f"rows {fit.plain:.4f}"
        )
        found.append(fit.subnet)
    return found


def final_latents(
    pipeline: Pipeline,
    subnet: SubNet,
    table: SamplerTable,
    runs: Trajectories,
    *,
    unguided: Container[int] = (),
    observe: Callable[[int, Target, Tensor], None] | None = None,
) -> Tensor:
    """The final latents of `subnet` for the noise and prompts of `runs`, `[S, ...]`.

    Args:
        pipeline: with its weights loaded.
        subnet: its gates.
        table: rows over its steps.
        runs: called all at once, since gates count the calls and remember one batch.
        unguided: steps at which the prediction with the prompt stands alone.
        observe: called with (step, target, tensor) for each tensor that is computed.
    """
    runs, calls = runs.first_pictures(len(runs.noise)), unroll(subnet).calls
    with torch.no_grad(), gated(pipeline.denoiser, subnet, steps=calls, observe=observe):
        return run_table(runs, subnet, table, unguided)


def run_table(
    runs: Trajectories, subnet: SubNet, table: SamplerTable, unguided: Container[int] = ()
) -> Tensor:
    """Final latents `[S, ...]` of the calls of `subnet` with rows over steps.

    The denoiser must be gated by the steps of `subnet` that make calls.
    """
    table.require_fixed()
    unrolled = unroll(subnet)
    origins = [unrolled.values[row[PREDICTION]].step for row in unrolled.effective]
    merged = table.merge(origins, unrolled.calls)
    values = [runs.noise]
    for row, step in zip(merged.inputs, unrolled.calls, strict=True):
        timestep = torch.tensor(subnet.timesteps[step], device=runs.noise.device)
        asked = {"guidance": 1.0} if step in unguided else {}
        made = runs.predictor(combine(row, values), timestep, **asked)
        if origins[step] == step:
            values.append(made)
    return combine(merged.final, values)


def _calls_of(subnet: SubNet, steps: tuple[int, ...], runs: Trajectories) -> Calls:
    unrolled = unroll(subnet)
    device = runs.noise.device
    return Calls(
        positions=tuple(
            torch.tensor(runs.position_of(subnet.timesteps[step]), device=device) for step in steps
        ),
        predicts=tuple(PREDICTION in unrolled.computed[step] for step in steps),
    )


def _mean(runs: Trajectories, final: Tensor) -> float:
    return float(runs.error(final).mean())
