"""The search methods by name: a pipeline and options go in, a SubNet comes out."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from search import schedules
from search.errors import SearchError
from search.options import Options, require_method
from search.subnet import Action, Granularity, SubNet

if TYPE_CHECKING:
    from search.model.pipeline import Pipeline


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


def full(pipeline: Pipeline, options: Options) -> SubNet:
    """Every block at every step."""
    from search.model.family import Request
    from search.model.trace import trace

    pipeline.sampler(options.steps)  # refuses what could never be exported
    request = Request(
        prompts=(pipeline.family.default_prompt,),
        steps=options.steps,
        guidance=options.guidance,
        height=options.height,
        width=options.width,
    )
    traced = trace(pipeline, options.granularity, request)
    _require_size(pipeline, options, traced.latent_shape)
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


def _require_size(pipeline: Pipeline, options: Options, latent_shape: tuple[int, ...]) -> None:
    """Refuse a size that the pipeline has not taken."""
    if options.height is None or options.width is None:
        return
    factor = 2 ** (len(pipeline.pipe.vae.config.block_out_channels) - 1)
    made = (latent_shape[1] * factor, latent_shape[2] * factor)
    if made != (options.height, options.width):
        msg = (
            f"{pipeline.family.pipeline} makes pictures of {made[0]} x {made[1]} here, not of "
            f"{options.height} x {options.width}; leave --height and --width out, or choose a "
            f"multiple of {factor}"
        )
        raise SearchError(msg)


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
