"""What a search comes close to: a sampler, by pictures of some prompts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from search.fitting.trajectories import sample_both

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from search.core.sampler import ScaleRange
    from search.core.subnet import SubNet
    from search.fitting.effort import Effort
    from search.fitting.trajectories import Trajectories
    from search.model.pipeline import Pipeline

RECIPE = 6
"""Raised when the same effort gives another result, so that no other version resumes a search."""


@dataclass(frozen=True)
class Target:
    """What a search comes close to.

    Attributes:
        pipeline: with its weights loaded and the scheduler of `full`.
        full: runs everything: blocks, sampler, guidance.
        prompts: to calibrate on, repeated with other noise if they are few.
        effort: how much work to do.
        reference_steps: inference steps of the sampler to come close to; None is the full sampler's.
        scales: the range of guidance scales that rows are for; None: that of `full` alone.
        seed: of the noise.
    """

    pipeline: Pipeline
    full: SubNet
    prompts: Sequence[str]
    effort: Effort
    reference_steps: int | None = None
    scales: ScaleRange | None = None
    seed: int = 0

    def sampled(self, report: Callable[..., None]) -> tuple[Trajectories, Trajectories]:
        """Runs of the sampler to fit to, and others to choose by."""
        return sample_both(
            self.pipeline,
            self.full,
            self.prompts,
            fitted_on=self.effort.fitted_on,
            held_out=self.effort.held_out,
            reference_steps=self.reference_steps,
            seed=self.seed,
            scales=self.scales,
            report=report,
        )

    def identity(self) -> dict[str, Any]:
        """What must be equal to resume a search: all that changes its result, except keeps and costs."""
        full, scales = self.full, self.scales
        return {
            "recipe": RECIPE,
            **vars(self.effort),
            "reference_steps": self.reference_steps,
            "seed": self.seed,
            "binding": full.binding.to_json(),
            "guidance": full.guidance,
            **({} if scales is None else {"guidance_range": [scales.low, scales.high]}),
            "blocks": full.topology.blocks,
            "prompts": list(self.prompts),
            "dtype": self.pipeline.dtype,
        }
