"""The methods by name, and what they can be told. No framework."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from search.core.course import Course
from search.core.errors import SearchError
from search.core.subnet import Granularity
from search.runs.parallel import Where

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

METHODS = (
    "full", "deepcache", "fewer-steps", "random", "dip-go", "laptop", "bk-sdm", "ssd-1b", "vega",
    "every-second",
)  # fmt: skip
LAYER_METHODS = ("laptop", "bk-sdm", "ssd-1b", "vega", "every-second")
"""Those that leave layers out at all steps."""
RECIPES = ("default", "paper")
COSTS = ("macs", "params", "latency")
USED_BY = {
    "keep": ("fewer-steps", "random", "dip-go", "laptop", "bk-sdm", "every-second"),
    "interval": ("deepcache",),
    "branch": ("deepcache",),
    "recipe": ("dip-go", "laptop"),
    "pictures": ("dip-go",),
    "iterations": ("dip-go",),
    "run": ("dip-go", "laptop"),
    "resume": ("dip-go", "laptop"),
    "criterion": ("laptop",),
    "tuples": ("laptop",),
    "jobs": ("laptop",),
    "parallel": ("laptop",),
    "variant": ("bk-sdm",),
}
"""Options that only some methods look at."""


FEWEST = 2
"""Pictures of our recipe: one is fitted to, another chosen by."""


@dataclass(frozen=True)
class Options:
    """What the methods can be told; each uses its own.

    Attributes:
        steps: inference steps of the full sampler, where no custom grid is given.
        timesteps: a custom grid for its scheduler; empty leaves it to that.
        sigmas: a custom grid as noise levels; likewise.
        start_step: of the full sampler, to begin at.
        end_step: of the full sampler, to end before; None is after the last.
        add_noise: begin from clean latents, to which the scheduler adds noise.
        guidance: classifier-free guidance scale; 1 or less is no guidance, None is the pipeline's own.
        granularity: which submodules are blocks.
        keep: fraction of the full cost that may remain (fewer-steps, random).
        interval: of full steps (deepcache).
        branch: the cached layer, from the outermost (deepcache).
        seed: of random choices.
        height: of the image in pixels, or None for the pipeline's default.
        width: likewise.
        recipe: one of `RECIPES` (dip-go).
        pictures: to calibrate with, or None for the recipe's (dip-go, default recipe).
        iterations: of the gradient search, or None for the recipe's (dip-go).
        reference_steps: of the sampler to come close to, or None for `steps` (fitted samplers).
        fit_sampler: give the SubNet a sampler fitted to the full one; None is what the method does
            by default.
        prompts: to search and fit with; none stands for the pipeline's own.
        criterion: what says how much a layer matters, or None for the recipe's (laptop).
        tuples: inputs of the denoiser that it is measured on (laptop).
        jobs: that run at once (laptop).
        parallel: where they run (laptop).
        variant: which of the published removals, or `keep` for their order up to `keep` (bk-sdm).
    """

    steps: int = 50
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
    recipe: str = "default"
    pictures: int | None = None
    iterations: int | None = None
    reference_steps: int | None = None
    fit_sampler: bool | None = None
    prompts: tuple[str, ...] = ()
    criterion: str | None = None
    tuples: int = 64
    jobs: int = 1
    parallel: Where = Where.LOCAL
    variant: str = "base"

    def __post_init__(self) -> None:
        """Check what no method could use."""
        if self.seed < 0:
            msg = f"--seed is {self.seed}; give 0 or more"
            raise SearchError(msg)
        if (self.height is None) != (self.width is None):
            msg = "a size needs both --height and --width; give the other one too"
            raise SearchError(msg)
        if min(self.height or 1, self.width or 1) < 1 or 0 in (self.height, self.width):
            msg = f"a picture of {self.height} x {self.width} has no pixels; give a larger size"
            raise SearchError(msg)
        if self.recipe not in RECIPES:
            msg = f"unknown recipe {self.recipe!r}; choose one of {', '.join(RECIPES)}"
            raise SearchError(msg)
        require_least(self, {"steps": 1, "pictures": FEWEST, "iterations": 1, "reference_steps": 1})
        if not math.isfinite(self.guidance or 0):
            msg = f"--guidance is {self.guidance}; give a number"
            raise SearchError(msg)
        if self.reference_steps is not None and not self.course.is_plain:
            msg = (
                "--reference-steps is for another sampler from noise to the end; leave it out, or leave "
                "out what asks for a custom grid or a part of it"
            )
            raise SearchError(msg)
        if not 0 < self.keep <= 1:
            msg = f"--keep is {self.keep}; give a fraction above 0 and at most 1"
            raise SearchError(msg)

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width, or None for the pipeline's default."""
        return None if self.height is None or self.width is None else (self.height, self.width)

    @property
    def course(self) -> Course:
        """What is asked of the full sampler."""
        return Course(
            inference_steps=len(self.timesteps or self.sigmas) or self.steps,
            custom_timesteps=self.timesteps,
            custom_sigmas=self.sigmas,
            first_step=self.start_step,
            end_step=self.end_step,
            adds_noise=self.add_noise,
        )


def require_method(name: str) -> None:
    """Refuse a method that is not one of `METHODS`."""
    if name not in METHODS:
        msg = f"unknown method {name!r}; choose one of {', '.join(METHODS)}"
        raise SearchError(msg)


def require_used(method: str, given: Iterable[str]) -> None:
    """Refuse an option in `given` that `method` would not look at."""
    for name in given:
        if method not in USED_BY.get(name, METHODS):
            msg = (
                f"the method {method!r} does not look at --{name}, which is for "
                f"{', '.join(USED_BY[name])}; leave it out"
            )
            raise SearchError(msg)


def require_run(folder: Path | None, *, resume: bool) -> None:
    """Refuse to go on with a search that no directory was given of."""
    if resume and folder is None:
        msg = "--resume goes on from what is in --run; give --run too, the directory of the earlier search"
        raise SearchError(msg)


def require_one_grid(given: Iterable[str]) -> None:
    """Refuse more than one of the options that say which grid of timesteps to take."""
    found = [f"--{name}" for name in ("steps", "timesteps", "sigmas") if name in given]
    if len(found) > 1:
        msg = f"{' and '.join(found)} are both the sampler's grid; give one of them"
        raise SearchError(msg)


def granularity_for(method: str, name: str | None) -> Granularity:
    """The granularity of that name, or what suits the method."""
    if name is None:
        suits = {"dip-go": Granularity.STAGE} | dict.fromkeys(LAYER_METHODS, Granularity.LAYER)
        return suits.get(method, Granularity.BRANCH)
    return granularity_of(name)


def cost_for(method: str, name: str | None) -> str:
    """The cost of that name, or what the method goes by: parameters where layers are left out."""
    return name or ("params" if method in LAYER_METHODS else "macs")


def require_cost(name: str, method: str, recipe: str, *, has_table: bool) -> None:
    """Refuse a cost that is not one of `COSTS`, that the method does not look at, or that takes no table."""
    if name not in COSTS:
        msg = f"unknown cost {name!r}; choose one of {', '.join(COSTS)}"
        raise SearchError(msg)
    if name == "params" and method not in LAYER_METHODS:
        msg = (
            f"the method {method!r} decides step by step, which leaves all parameters in use; count macs or "
            f"latency, or use one of {', '.join(LAYER_METHODS)}"
        )
        raise SearchError(msg)
    looks = method in ("random", *LAYER_METHODS) or (method, recipe) == ("dip-go", "paper")
    if name != "macs" and not looks:
        what = "the default recipe of dip-go" if method == "dip-go" else f"the method {method!r}"
        msg = (
            f"{what} does not choose blocks by their cost, so it cannot use --cost {name}; use "
            "--method random, or dip-go with --recipe paper"
        )
        raise SearchError(msg)
    if has_table and name != "latency":
        msg = f"--latencies keeps measured times, but --cost is {name}; give --cost latency, or leave it out"
        raise SearchError(msg)


def names_of(text: str) -> tuple[str, ...]:
    """`a, b` as a tuple, each name once; empty for none."""
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def sizes_of(texts: Iterable[str]) -> list[tuple[int, int]]:
    """Heights and widths in pixels, from texts such as 512x768."""
    sizes = []
    for text in texts:
        height, cross, width = text.partition("x")
        if not (cross and height.isdecimal() and width.isdecimal()):
            msg = f"the size {text!r} is not HEIGHTxWIDTH; give pixels, as in 512x768"
            raise SearchError(msg)
        sizes.append((int(height), int(width)))
    return sizes


def grid_of(text: str | None, option: str) -> tuple[float, ...]:
    """The numbers in a list such as `999,749,499,249`, each below the one before; none without one."""
    if text is None:
        return ()
    try:
        grid = tuple(float(part) for part in text.split(","))
    except ValueError:
        grid = ()
    falls = sorted(set(grid), reverse=True) == [*grid]
    if not grid or not all(map(math.isfinite, grid)) or not falls or grid[-1] < 0:
        msg = f"{option} is {text!r}; give numbers that fall, none below 0, such as 999,749,499,249"
        raise SearchError(msg)
    return grid


def keeps_of(text: str) -> tuple[float, ...]:
    """The fractions in a list such as `0.2,0.3,0.5`."""
    try:
        keeps = tuple(float(part) for part in text.split(","))
    except ValueError:
        keeps = ()
    if not keeps or not all(0 < keep <= 1 for keep in keeps) or len(set(keeps)) < len(keeps):
        msg = (
            f"--keep is {text!r}; give fractions above 0 and at most 1, such as 0.5 or 0.2,0.3,0.5"
        )
        raise SearchError(msg)
    return keeps


def granularity_of(name: str) -> Granularity:
    """The granularity of that name."""
    if name not in set(Granularity):
        msg = f"unknown granularity {name!r}; choose one of {', '.join(Granularity)}"
        raise SearchError(msg)
    return Granularity(name)


def require_least(settings: Any, least: Mapping[str, int]) -> None:
    """Refuse a number of `settings` below what `least` says by name; None is a default.

    Raises:
        SearchError: it is too small.
    """
    for name, smallest in least.items():
        number = getattr(settings, name)
        if number is not None and number < smallest:
            msg = f"--{name.replace('_', '-')} is {number}; give {smallest} or more"
            raise SearchError(msg)
