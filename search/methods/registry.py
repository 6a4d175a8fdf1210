"""The search methods by name: a pipeline and options go in, a SubNet comes out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from search.core.actions import Action
from search.core.course import Course
from search.core.errors import SearchError
from search.core.subnet import Granularity, SubNet
from search.methods import schedules
from search.methods.options import LAYER_METHODS, Options, require_method
from search.methods.prompts import default_prompts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from search.dipgo.records import Progress
    from search.methods.schedules import Cost
    from search.model.pipeline import Pipeline

    Report = Callable[..., None]


def search_keeps(
    pipeline: Pipeline,
    method: str,
    options: Options,
    keeps: Sequence[float],
    *,
    cost: Cost = schedules.keep_of,
    folder: Path | None = None,
    resume: bool = False,
    report: Report = lambda _text, _share=None: None,
    note: Callable[[str], None] = lambda _text: None,
) -> list[SubNet]:
    """One SubNet for each of `keeps`, with a fitted sampler where that is asked for.

    Args:
        pipeline: with its weights loaded if `needs_weights`.
        method: one of `METHODS`.
        options: what the method can be told.
        keeps: fractions of the full sampler's cost; they stand in for `options.keep`.
        cost: of a SubNet, as a fraction of the full sampler's; what `random` and the paper's recipe go by.
        folder: for the log, the plot and the checkpoints of a gradient search, or None.
        resume: go on from what is in `folder`.
        report: told what is being done, and which share of it is done.
        note: told in a sentence what else was found.

    Raises:
        SearchError: unknown method, or options that do not fit the pipeline.
    """
    fits = needs_fit(method, options)
    if method == "dip-go":
        found = _dip_go(
            pipeline, options, keeps, cost=cost, folder=folder, resume=resume, report=report
        )
    elif method == "laptop":
        found = _laptop(
            pipeline,
            options,
            keeps,
            cost=cost,
            folder=folder,
            resume=resume,
            report=report,
            note=note,
        )
    else:
        whole = full(pipeline, options)
        found = [
            _by_hand(pipeline, whole, method, replace(options, keep=keep), cost) for keep in keeps
        ]
    if not fits:
        return found
    from search.fitting.fit import fit_subnets

    return fit_subnets(
        pipeline,
        full(pipeline, options),
        found,
        options.prompts or default_prompts(pipeline),
        reference_steps=options.reference_steps,
        seed=options.seed,
        report=report,
    )


def needs_weights(method: str, options: Options) -> bool:
    """Whether the method calls the denoiser, and not only its architecture."""
    return needs_fit(method, options) or method in ("dip-go", "laptop")


def needs_fit(method: str, options: Options) -> bool:
    """Whether SubNets of `method` are to be fitted afterwards; our recipe fits its own."""
    if method == "dip-go" and options.recipe == "default":
        if options.fit_sampler is False:
            msg = (
                "the default recipe places its calls through the fitted sampler, so it cannot do "
                "without; use --recipe paper, or leave --no-fit-sampler out"
            )
            raise SearchError(msg)
        return False
    if method == "dip-go" and options.pictures is not None:
        msg = "--pictures is for the default recipe of dip-go; leave it out with --recipe paper"
        raise SearchError(msg)
    if options.reference_steps is not None and not options.fit_sampler:
        msg = "--reference-steps is what a sampler is fitted to; give --fit-sampler too, or leave it out"
        raise SearchError(msg)
    return bool(options.fit_sampler)


def _dip_go(
    pipeline: Pipeline,
    options: Options,
    keeps: Sequence[float],
    *,
    cost: Cost,
    folder: Path | None,
    resume: bool,
    report: Report,
) -> list[SubNet]:
    """The gradient searches: the paper's, and ours."""
    prompts = options.prompts or default_prompts(pipeline)
    if options.recipe == "paper":
        from search.dipgo.paper import run_paper
        from search.dipgo.recipe import PAPER

        recipe = PAPER if options.iterations is None else PAPER.shortened(options.iterations)

        def tell(each: Progress) -> None:
            report(
                f"iteration {each.iteration + 1} of {recipe.iterations}: consistency "
                f"{each.consistency:.4f}, sparsity {each.sparsity:.3f}, keep {each.keep:.3f}",
                (each.iteration + 1) / recipe.iterations,
            )

        return run_paper(
            pipeline,
            options,
            keeps,
            prompts=prompts,
            recipe=recipe,
            cost=cost,
            folder=folder,
            resume=resume,
            progress=tell,
        )
    from search.fitting.recipe import Effort, place_calls

    return place_calls(
        pipeline,
        full(pipeline, options),
        keeps,
        prompts,
        effort=Effort.of(options.pictures, options.iterations),
        reference_steps=options.reference_steps,
        seed=options.seed,
        folder=folder,
        resume=resume,
        report=report,
    )


def _laptop(
    pipeline: Pipeline,
    options: Options,
    keeps: Sequence[float],
    *,
    cost: Cost,
    folder: Path | None,
    resume: bool,
    report: Report,
    note: Callable[[str], None],
) -> list[SubNet]:
    """The layers that matter least, left out; tells how well their scores add up."""
    from search.laptop.recipe import remove_layers
    from search.laptop.settings import settings_of

    found = remove_layers(
        pipeline,
        full(pipeline, options),
        keeps,
        prompts=options.prompts or default_prompts(pipeline),
        settings=settings_of(options),
        cost=cost,
        folder=folder,
        resume=resume,
        report=report,
    )
    note(found.sentence())
    return found.subnets


def search(
    pipeline: Pipeline, method: str, options: Options, *, cost: Cost = schedules.keep_of
) -> SubNet:
    """A hand-made SubNet for `pipeline`: those of `METHODS` that need no weights.

    Raises:
        SearchError: unknown method, or options that do not fit the pipeline.
    """
    return _by_hand(pipeline, full(pipeline, options), method, options, cost)


def _by_hand(
    pipeline: Pipeline, whole: SubNet, method: str, options: Options, cost: Cost
) -> SubNet:
    """The same from `whole`, every block at every step."""
    if method == "full":
        return whole
    if method == "deepcache":
        if options.granularity is not Granularity.BRANCH:
            msg = f"DeepCache is defined on branches, not on {options.granularity}s; leave --granularity out"
            raise SearchError(msg)
        return schedules.deepcache(whole, interval=options.interval, branch=options.branch)
    if method == "fewer-steps":
        return fewer_steps(pipeline, whole, options.keep)
    if method == "random":
        return schedules.random_reuse(whole, keep=options.keep, seed=options.seed, cost=cost)
    if method in LAYER_METHODS:
        return _layers_by_hand(whole, method, options, cost)
    require_method(method)
    msg = f"the method {method!r} makes a SubNet per keep; use search_keeps"
    raise SearchError(msg)


def _layers_by_hand(whole: SubNet, method: str, options: Options, cost: Cost) -> SubNet:
    """The layers that people left out."""
    from search.laptop import by_hand

    if method in by_hand.DEPTHS:
        return by_hand.with_depths(whole, method)
    if method == "every-second":
        return by_hand.every_second(whole, options.keep, cost)
    if options.variant == "keep":
        return by_hand.bk_sdm_order(whole, options.keep, cost)
    return by_hand.bk_sdm(whole, options.variant)


def full(pipeline: Pipeline, options: Options) -> SubNet:
    """Every block at every step."""
    return _whole(pipeline, options.course, options.granularity, options.guidance, options.size)


def _whole(
    pipeline: Pipeline,
    course: Course,
    granularity: Granularity,
    guidance: float,
    size: tuple[int, int] | None,
) -> SubNet:
    """The same by what decides it; the size (height, width) is the pipeline's own if None."""
    from search.model.family import Request
    from search.model.trace import trace

    pipeline.sampler(course, size)  # refuses what could never be exported
    request = Request(
        prompts=(pipeline.family.default_prompt,),
        steps=course.inference_steps,
        guidance=guidance,
    ).sized(size)
    traced = trace(pipeline, granularity, request)
    _require_size(pipeline, size, traced.noise_shape)
    binding = pipeline.binding(
        course=course,
        guided=traced.guided,
        latent_shape=traced.latent_shape,
        noise_shape=traced.noise_shape,
    )
    row = (Action.RUN,) * len(traced.topology.blocks)
    whole = SubNet(
        binding=binding,
        granularity=granularity,
        topology=traced.topology,
        actions=(row,) * len(binding.timesteps),
        guidance=guidance,
        full_calls=len(binding.timesteps),
        method="full",
    )
    return skipping(whole, pipeline.removed)


def resized(pipeline: Pipeline, subnet: SubNet, size: tuple[int, int]) -> SubNet:
    """The same table for pictures of another size (height, width).

    Costs and shapes are those at that size, and so are timesteps where they depend on it.

    Args:
        pipeline: with the scheduler that `subnet` is bound to.
        subnet: bound to that pipeline.
        size: wanted.

    Raises:
        SearchError: the pipeline cannot make pictures of that size, has other blocks then, or the
            sampler of `subnet` was fitted at its own size.
    """
    own = pipeline.size(subnet.binding.noise_shape)
    if size == own:
        return subnet
    if subnet.fitted is not None:
        msg = (
            f"the sampler of this SubNet was fitted for pictures of {own[0]} x {own[1]}, not of "
            f"{size[0]} x {size[1]}; leave that size out, or search again with it"
        )
        raise SearchError(msg)
    there = _whole(pipeline, subnet.binding.course, subnet.granularity, subnet.guidance, size)
    if not subnet.topology.has_blocks_of(there.topology):
        msg = (
            f"at {size[0]} x {size[1]} the denoiser has other blocks than the SubNet, which was made "
            f"at {own[0]} x {own[1]}; search again at that size"
        )
        raise SearchError(msg)
    return replace(subnet, binding=there.binding, topology=there.topology)


def _require_size(
    pipeline: Pipeline, size: tuple[int, int] | None, noise_shape: tuple[int, ...]
) -> None:
    """Refuse a size (height, width) that the pipeline has not taken."""
    made = pipeline.size(noise_shape)
    if size not in (None, made):
        msg = (
            f"{pipeline.family.pipeline} makes pictures of {made[0]} x {made[1]} here, not of "
            f"{size[0]} x {size[1]}; leave the size out, or choose a multiple "
            f"of {made[0] // noise_shape[1]}"
        )
        raise SearchError(msg)


def skipping(subnet: SubNet, removed: Sequence[str]) -> SubNet:
    """The same, saying SKIP where a removed block would run: that is all it can do.

    What such a block emitted earlier may still be reused.
    """
    if not removed:
        return subnet
    gone = [name in removed for name in subnet.topology.blocks]
    rows = tuple(
        tuple(
            Action.SKIP if out and action is not Action.REUSE else action
            for action, out in zip(row, gone, strict=True)
        )
        for row in subnet.actions
    )
    return replace(subnet, actions=rows)


def fewer_steps(pipeline: Pipeline, whole: SubNet, keep: float) -> SubNet:
    """The pipeline's present sampler with as many full calls as `keep` of those of `whole` pay for."""
    course = whole.binding.course
    if not course.is_plain:
        msg = (
            "fewer-steps makes grids of its own, from noise to the end; leave the custom grid and the "
            "part of it out, or choose another method"
        )
        raise SearchError(msg)
    budget = keep * whole.full_calls + 1e-9
    for steps in range(course.inference_steps, 0, -1):
        binding = pipeline.binding(
            course=Course(steps),
            guided=whole.binding.guided,
            latent_shape=whole.binding.latent_shape,
            noise_shape=whole.binding.noise_shape,
        )
        if len(binding.timesteps) <= budget:
            return replace(
                whole,
                binding=binding,
                actions=whole.actions[:1] * len(binding.timesteps),
                method=f"fewer-steps keep {keep}",
            )
    msg = f"--keep {keep} of {whole.full_calls} calls is less than one call; keep more"
    raise SearchError(msg)
