"""The search methods by name: a pipeline and options go in, a SubNet comes out."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from search import schedules
from search.errors import SearchError
from search.model.scheduler import read_sampler
from search.subnet import Action, Granularity, SubNet

if TYPE_CHECKING:
    from search.model.pipeline import Pipeline

METHODS = ("full", "deepcache", "fewer-steps", "random")


@dataclasses.dataclass(frozen=True)
class Options:
    """What the methods can be told; each uses its own.

    Attributes:
        steps: inference steps of the full sampler.
        guidance: classifier-free guidance scale; 1 or less is no guidance.
        granularity: which submodules are blocks.
        keep: fraction of the full cost that may remain (fewer-steps, random).
        interval: of full steps (deepcache).
        branch: the cached layer, from the outermost (deepcache).
        seed: of random choices.
        height: of the image in pixels, or None for the pipeline's default.
        width: likewise.
    """

    steps: int = 50
    guidance: float = 7.5
    granularity: Granularity = Granularity.BRANCH
    keep: float = 0.5
    interval: int = 5
    branch: int = 0
    seed: int = 0
    height: int | None = None
    width: int | None = None

    def __post_init__(self) -> None:
        """Check what no method could use."""
        if self.steps < 1:
            msg = f"--steps is {self.steps}; give 1 or more"
            raise SearchError(msg)
        if not 0 < self.keep <= 1:
            msg = f"--keep is {self.keep}; give a fraction above 0 and at most 1"
            raise SearchError(msg)


def search(pipeline: Pipeline, method: str, options: Options) -> SubNet:
    """Make a SubNet for `pipeline` by one of `METHODS`.

    Raises:
        SearchError: unknown method, or options that do not fit the pipeline.
    """
    if method == "full":
        return full(pipeline, options)
    if method == "deepcache":
        if options.granularity is not Granularity.BRANCH:
            msg = f"DeepCache is defined on branches, not on {options.granularity}s; leave --granularity out"
            raise SearchError(msg)
        whole = full(pipeline, options)
        return schedules.deepcache(whole, interval=options.interval, branch=options.branch)
    if method == "fewer-steps":
        return fewer_steps(pipeline, options)
    if method == "random":
        return schedules.random_reuse(full(pipeline, options), keep=options.keep, seed=options.seed)
    require_method(method)
    msg = f"the method {method!r} is listed but not written"
    raise AssertionError(msg)


def require_method(name: str) -> None:
    """Refuse a method that is not one of `METHODS`."""
    if name not in METHODS:
        msg = f"unknown method {name!r}; choose one of {', '.join(METHODS)}"
        raise SearchError(msg)


def granularity_of(name: str) -> Granularity:
    """The granularity of that name."""
    if name not in set(Granularity):
        msg = f"unknown granularity {name!r}; choose one of {', '.join(Granularity)}"
        raise SearchError(msg)
    return Granularity(name)


def full(pipeline: Pipeline, options: Options) -> SubNet:
    """Every block at every step."""
    from search.model.family import Request
    from search.model.trace import trace

    read_sampler(pipeline.pipe.scheduler, options.steps)  # refuses what could never be exported
    request = Request(
        prompts=(pipeline.family.default_prompt,),
        steps=options.steps,
        guidance=options.guidance,
        height=options.height,
        width=options.width,
    )
    traced = trace(pipeline, options.granularity, request)
    binding = pipeline.binding(
        steps=options.steps, guided=request.guided, latent_shape=traced.latent_shape
    )
    row = (Action.RUN,) * len(traced.topology.blocks)
    return SubNet(
        binding=binding,
        granularity=options.granularity,
        topology=traced.topology,
        actions=(row,) * len(binding.timesteps),
        guidance=options.guidance,
        full_calls=len(binding.timesteps),
        method="full",
    )


def fewer_steps(pipeline: Pipeline, options: Options) -> SubNet:
    """The same sampler with as many full calls as `keep` of the full sampler's pay for."""
    whole = full(pipeline, options)
    budget = options.keep * whole.full_calls + 1e-9
    for steps in range(options.steps, 0, -1):
        binding = pipeline.binding(
            steps=steps, guided=whole.binding.guided, latent_shape=whole.binding.latent_shape
        )
        if len(binding.timesteps) <= budget:
            return dataclasses.replace(
                whole,
                binding=binding,
                actions=whole.actions[:1] * len(binding.timesteps),
                method=f"fewer-steps keep {options.keep}",
            )
    msg = f"--keep {options.keep} of {whole.full_calls} calls is less than one call; keep more"
    raise SearchError(msg)
