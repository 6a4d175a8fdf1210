"""The timestep grid of a run: its steps, their range, and the starting point. No framework."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from search.core.errors import SearchError

FROM_NOISE = "begins from noise"


@dataclass(frozen=True)
class TimestepGrid:
    """A timestep grid: which timesteps a sampler runs.

    Steps are counted in the timesteps that the scheduler makes of the grid: samplers of second order
    make about two of each.

    Attributes:
        inference_steps: what the scheduler's `set_timesteps` is given, or how long the custom grid is.
        custom_timesteps: a grid, noisiest first; empty leaves it to the scheduler.
        custom_sigmas: a grid as noise levels, noisiest first; likewise.
        first_step: where to begin.
        end_step: the step before which to end; None is after the last.
        adds_noise: whether to begin from clean latents, to which the scheduler adds noise.
    """

    inference_steps: int
    custom_timesteps: tuple[float, ...] = ()
    custom_sigmas: tuple[float, ...] = ()
    first_step: int = 0
    end_step: int | None = None
    adds_noise: bool = False

    def __post_init__(self) -> None:
        """Check what no sampler could do."""
        if self.custom_timesteps and self.custom_sigmas:
            msg = "both timesteps and sigmas were given; a grid is one of them, so leave the other out"
            raise SearchError(msg)
        if self.first_step < 0:
            msg = f"the first step is {self.first_step}; give 0 or more"
            raise SearchError(msg)

    @property
    def takes_latents(self) -> bool:
        """Whether it begins from given latents: those of another run at that step, or clean ones."""
        return self.first_step > 0 or self.adds_noise

    @property
    def begins(self) -> str:
        """In words, what it begins from."""
        if self.adds_noise:
            return f"begins at step {self.first_step} from clean latents, to which it adds noise"
        if self.first_step:
            return f"begins at step {self.first_step} from the latents that another run left there"
        return FROM_NOISE

    @property
    def is_plain(self) -> bool:
        """Whether it is the scheduler's own grid, from noise to the end, so that fewer steps are another such."""
        return self == TimestepGrid(self.inference_steps)

    @property
    def is_whole(self) -> bool:
        """Whether it goes from noise to the end."""
        return not self.takes_latents and self.end_step is None

    def part(self, steps: int) -> slice:
        """Which of the grid's steps it has.

        Raises:
            SearchError: none, or it ends behind the last.
        """
        end = steps if self.end_step is None else self.end_step
        if not self.first_step < end <= steps:
            msg = (
                f"steps {self.first_step} to {end} were requested, but the sampler has {steps}, "
                "counted from 0; choose a first step before the end, and an end among them"
            )
            raise SearchError(msg)
        return slice(self.first_step, end)

    @staticmethod
    def from_json(data: dict[str, Any]) -> TimestepGrid:
        """Read what `vars` gives."""
        grids = {
            name: tuple(map(float, data[name])) for name in ("custom_timesteps", "custom_sigmas")
        }
        return TimestepGrid(**{each.name: data[each.name] for each in fields(TimestepGrid)} | grids)
