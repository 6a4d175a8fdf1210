"""A fitted sampler that was found elsewhere: on another model, at another size or in another precision."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from search.core.errors import SearchError
from search.core.liveness import unroll
from search.fitting.fit import final_latents
from search.fitting.trajectories import sample_both

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from search.core.subnet import SubNet
    from search.fitting.trajectories import Trajectories
    from search.model.pipeline import Pipeline

PICTURES = 8
"""To measure with what the adopted sampler costs."""


@dataclass(frozen=True)
class Adopted:
    """What adopting a sampler costs.

    Attributes:
        subnet: all blocks at every call of the adopted sampler.
        error: mean relative L2 of its final latents to the full sampler's.
        plain: the same of the SubNet that it is compared with; None without one.
    """

    subnet: SubNet
    error: float
    plain: float | None

    def sentence(self) -> str:
        """For people."""
        told = f"the adopted sampler's final latents are {self.error:.4f} from this full sampler's"
        if self.plain is None:
            return told
        return f"{told}; as many of the scheduler's own steps, {self.plain:.4f}"


def adopt_sampler(full: SubNet, found: SubNet) -> SubNet:
    """`full` with the sampler that was fitted for `found`, all blocks at each of its steps.

    Raises:
        SearchError: `found` has no fitted sampler, one with steps that make no call, or one of another
            scheduler.
    """
    fitted = found.fitted
    if fitted is None:
        msg = (
            f"the SubNet to adopt from ({found.method}) has no fitted sampler; give one of --method carve, "
            "or of a search with --fit-sampler"
        )
        raise SearchError(msg)
    calls = len(unroll(found).calls)
    if calls != found.steps:
        msg = (
            f"the SubNet to adopt from calls the denoiser at {calls} of its {found.steps} steps, "
            "and its sampler has no rows for the others; give one that calls it at every step, "
            "such as one made by carve"
        )
        raise SearchError(msg)
    theirs, ours = _scheduler(found), _scheduler(full)
    if theirs != ours:
        msg = (
            f"the sampler to adopt was fitted to {theirs}, but this pipeline samples with {ours}; "
            "search with that --scheduler and --scheduler-option if the model was trained for "
            "them, or adopt another sampler"
        )
        raise SearchError(msg)
    return replace(
        full,
        actions=full.actions[:1] * len(fitted.timesteps),
        fitted=fitted.around(full.guidance),
        method=f"sampler of {found.method}",
    )


def _scheduler(subnet: SubNet) -> str:
    """The scheduler's class, and what its predictions are of where it says that."""
    binding = subnet.binding
    predicts = binding.scheduler_config.get("prediction_type")
    return binding.scheduler if predicts is None else f"{binding.scheduler} ({predicts})"


def adopt(
    pipeline: Pipeline,
    full: SubNet,
    found: SubNet,
    plain: SubNet | None,
    prompts: Sequence[str],
    *,
    seed: int,
    report: Callable[..., None],
) -> Adopted:
    """Adopt the sampler of `found`, and measure on new pictures what that costs.

    Args:
        pipeline: with its weights loaded.
        full: its full sampler, to which errors are measured.
        found: the SubNet with the sampler.
        plain: as many of the scheduler's own steps, to compare with, or None.
        prompts: to measure with.
        seed: of the noise.
        report: called with a message and the completed fraction.
    """
    adopted = adopt_sampler(full, found)
    _, runs = sample_both(
        pipeline, full, prompts, fitted_on=1, held_out=PICTURES,
        reference_steps=None, seed=seed, report=report,
    )  # fmt: skip
    compared = None if plain is None else _error(pipeline, plain, runs)
    return Adopted(adopted, _error(pipeline, adopted, runs), compared)


def _error(pipeline: Pipeline, subnet: SubNet, runs: Trajectories) -> float:
    table = pipeline.sampler_of(subnet)
    return float(runs.error(final_latents(pipeline, subnet, table, runs)).mean())
