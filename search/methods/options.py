"""Options of the search methods. No framework."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from search.core.errors import SearchError
from search.core.granularity import Granularity
from search.core.timestep_grid import TimestepGrid
from search.runs.parallel import Where

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path


@dataclass(frozen=True)
class Options:
    """All options of the methods; `Method.options` lists those that a method uses.

    Attributes:
        steps: inference steps of the full sampler, where no custom grid is given; None for the
            pipeline's own default.
        timesteps: a custom grid for its scheduler; empty leaves it to that.
        sigmas: a custom grid as noise levels; likewise.
        start_step: of the full sampler, to begin at.
        end_step: of the full sampler, to end before; None is after the last.
        add_noise: begin from clean latents, to which the scheduler adds noise.
        guidance: classifier-free guidance scale, 1 or less is no guidance; None is the pipeline's own.
        granularity: which submodules are blocks.
        keep: fraction of the full cost that may remain.
        interval: every how many steps DeepCache computes everything.
        branch: that DeepCache caches, from the outermost.
        seed: of noise and random choices.
        height: of the image in pixels, or None for the pipeline's default.
        width: likewise.
        frames: of a video, likewise.
        pictures: to calibrate with; None is the method's default.
        iterations: of an optimiser; None is the method's default.
        thin: also try more calls than a keep pays for, with blocks or the negative prompt left out.
        reference_steps: of the sampler to come close to, or None for `steps`.
        guidance_range: the least and the largest guidance scale that fitted rows are for; None: `guidance`
            alone.
        fit_sampler: fit the SubNet's sampler to the full one afterwards.
        prompts: to search and fit with; none stands for the pipeline's own.
        criterion: of a layer's importance.
        rounds: how often a choice of layers is compared with its neighbours; None is the criterion's.
        tuples: inputs of the denoiser that layers are measured on.
        jobs: that run at once.
        parallel: where they run.
        adopt_sampler: file of the SubNet whose fitted sampler is taken.
        variant: of BK-SDM, or `keep` for its order of removal up to `keep`.
    """

    steps: int | None = None
    timesteps: tuple[float, ...] = ()
    sigmas: tuple[float, ...] = ()
    start_step: int = 0
    end_step: int | None = None
    add_noise: bool = False
    guidance: float | None = None
    granularity: Granularity = Granularity.BRANCH
    keep: float = 0.5
    interval: int = 5
    branch: int = 0
    seed: int = 0
    height: int | None = None
    width: int | None = None
    frames: int | None = None
    pictures: int | None = None
    iterations: int | None = None
    thin: bool = True
    reference_steps: int | None = None
    guidance_range: tuple[float, float] | None = None
    fit_sampler: bool = False
    prompts: tuple[str, ...] = ()
    criterion: str = "output"
    rounds: int | None = None
    tuples: int = 64
    jobs: int = 1
    parallel: Where = Where.LOCAL
    adopt_sampler: str | None = None
    variant: str = "base"

    def __post_init__(self) -> None:
        """Check the options against each other."""
        if (self.height is None) != (self.width is None):
            msg = "a size needs both --height and --width; give the other one too"
            raise SearchError(msg)
        if self.frames is not None and self.height is None:
            msg = "a number of frames needs a size; give --height and --width too"
            raise SearchError(msg)
        if self.reference_steps is not None and not self.grid(1).is_plain:
            msg = (
                "--reference-steps is for another sampler from noise to the end; leave it out, or leave "
                "out what asks for a custom grid or a part of it"
            )
            raise SearchError(msg)

    @property
    def size(self) -> tuple[int, ...] | None:
        """Height and width, a video's frames behind them; None for the pipeline's default."""
        if self.height is None or self.width is None:
            return None
        return (self.height, self.width) + (() if self.frames is None else (self.frames,))

    def grid(self, default_steps: int) -> TimestepGrid:
        """What is asked of the full sampler; `default_steps` are the pipeline's own."""
        return TimestepGrid(
            inference_steps=len(self.timesteps or self.sigmas) or self.steps or default_steps,
            custom_timesteps=self.timesteps,
            custom_sigmas=self.sigmas,
            first_step=self.start_step,
            end_step=self.end_step,
            adds_noise=self.add_noise,
        )


def require_run(folder: Path | None, *, resume: bool) -> None:
    """Refuse to continue a search whose directory was not given."""
    if resume and folder is None:
        msg = "--resume continues the search in --run, which is not given; give --run, the directory of the earlier search"
        raise SearchError(msg)


def require_one_grid(given: Iterable[str]) -> None:
    """Refuse more than one of the options that say which grid of timesteps to take."""
    found = [f"--{name}" for name in ("steps", "timesteps", "sigmas") if name in given]
    if len(found) > 1:
        msg = f"{' and '.join(found)} each set the sampler's timestep grid; give one of them"
        raise SearchError(msg)


def names_of(text: str, choices: Sequence[str]) -> tuple[str, ...]:
    """`a, b` as a tuple of some of `choices`, each once."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    unknown = sorted(set(names) - set(choices))
    if unknown or not names:
        what = (
            f"{', '.join(map(repr, unknown))} is not one of the choices"
            if unknown
            else "nothing is named"
        )
        msg = f"{what}; choose from {', '.join(choices)}"
        raise SearchError(msg)
    return names


def size_of(text: str) -> tuple[int, int]:
    """Height and width in pixels, from a text such as 512x768."""
    height, cross, width = text.partition("x")
    if not (cross and height.isdecimal() and width.isdecimal()):
        msg = f"{text!r} is not HEIGHTxWIDTH; give pixels, such as 512x768"
        raise SearchError(msg)
    return int(height), int(width)


def grid_of(text: str) -> tuple[float, ...]:
    """The numbers in a list such as `999,749,499,249`, each below the one before."""
    try:
        grid = tuple(float(part) for part in text.split(","))
    except ValueError:
        grid = ()
    falls = sorted(set(grid), reverse=True) == [*grid]
    if not grid or not all(map(math.isfinite, grid)) or not falls or grid[-1] < 0:
        msg = f"{text!r} is not a list of falling numbers; give numbers from high to low, none below 0, such as 999,749,499,249"
        raise SearchError(msg)
    return grid


def keeps_of(text: str) -> tuple[float, ...]:
    """The fractions in a list such as `0.2,0.3,0.5`."""
    try:
        keeps = tuple(float(part) for part in text.split(","))
    except ValueError:
        keeps = ()
    if not keeps or not all(0 < keep <= 1 for keep in keeps) or len(set(keeps)) < len(keeps):
        msg = f"{text!r} is not a list of fractions; give different numbers above 0 and at most 1, such as 0.2,0.3,0.5"
        raise SearchError(msg)
    return keeps


def assignment_of(text: str) -> tuple[str, Any]:
    """Name and value of `NAME=VALUE`; a value that is JSON is read as that."""
    name, equals, value = text.partition("=")
    if not (name.isidentifier() and equals and value):
        msg = f"{text!r} is not NAME=VALUE; give a setting of the scheduler, such as clip_sample=false"
        raise SearchError(msg)
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
