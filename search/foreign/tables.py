"""What other projects' files say of blocks and steps, as SubNets."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING

from search.core.actions import Action
from search.core.errors import SearchError
from search.core.subnet import Granularity
from search.core.table import with_actions
from search.core.timestep_grid import TimestepGrid
from search.foreign.forecasts import taylor_weights
from search.foreign.gate_file import Gate
from search.foreign.mask_file import StepMask
from search.methods.schedules import deepcache

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from search.core.subnet import SubNet
    from search.foreign.deepcache_file import DeepCacheParameters
    from search.foreign.router_file import Routers
    from search.foreign.smoothcache_file import LayerSchedule
    from search.foreign.step_file import Steps
    from search.foreign.taylorseer_file import TaylorSeer
    from search.methods.options import Options
    from search.model.pipeline import Pipeline

_STAGE = re.compile(r"(down|up)_blocks\.(\d+)|(mid)_block")


def subnet_from_deepcache(
    pipeline: Pipeline, parameters: DeepCacheParameters, options: Options
) -> SubNet:
    """The SubNet that does what the DeepCache package does with these parameters.

    Raises:
        SearchError: the denoiser is no U-Net, or has no such branch.
    """
    whole = _full(pipeline, options, Granularity.BRANCH)
    return deepcache(whole, interval=parameters.cache_interval, branch=parameters.cache_branch_id)


def subnet_from_routers(pipeline: Pipeline, routers: Routers, options: Options) -> SubNet:
    """The SubNet that reuses the attentions and feed-forwards that the routers of a DiT skip.

    Raises:
        SearchError: the routers are for another sampler or another denoiser.
    """
    _require_steps(len(routers.logits), pipeline, options.steps or pipeline.default_steps)
    whole = _full(pipeline, options, Granularity.LAYER)
    outer = pipeline.family.blocks(pipeline.denoiser, Granularity.BRANCH)
    units = [f"{name}.{part}" for name in outer for part in ("attn1", "ff")]
    if not set(units) <= set(whole.topology.blocks) or len(units) != len(routers.logits[0]):
        msg = (
            f"the routers have {len(routers.logits[0])} units, but this {whole.binding.denoiser} has "
            f"{len(set(units) & set(whole.topology.blocks))} attentions and feed-forwards (attn1, ff) in "
            f"its {len(outer)} blocks; give the DiT that the routers were learned on"
        )
        raise SearchError(msg)
    number = {name: unit for unit, name in enumerate(units)}

    def action(step: int, block: int) -> Action:
        unit = number.get(whole.topology.blocks[block])
        return Action.RUN if unit is None or routers.computes(step, unit) else Action.REUSE

    return with_actions(whole, action, method=f"learning-to-cache threshold {routers.threshold:g}")


def subnet_from_mask(pipeline: Pipeline, mask: StepMask, options: Options) -> SubNet:
    """The SubNet that adds the cached residuals of the middle blocks at the steps that a mask caches.

    Cache-DiT caches one residual over all of these blocks; it is the sum of theirs.

    Raises:
        SearchError: the mask is for another sampler, or leaves no block to cache.
    """
    _require_steps(len(mask.computes), pipeline, options.steps or pipeline.default_steps)
    whole = _full(pipeline, options, Granularity.BRANCH)
    return adding_residuals(whole, mask, f"cache-dit static mask F{mask.first}B{mask.last}")


def adding_residuals(whole: SubNet, mask: StepMask, method: str) -> SubNet:
    """`whole` with the residuals of the middle blocks added at the steps that a mask caches.

    Raises:
        SearchError: no block is left to cache, or to the input of some nothing can be added.
    """
    blocks = whole.topology.blocks
    middle = range(mask.first, len(blocks) - mask.last)
    if not middle:
        msg = (
            f"the first {mask.first} and the last {mask.last} of {len(blocks)} blocks are always "
            "computed, so no block is left to cache; lower Fn_compute_blocks or Bn_compute_blocks"
        )
        raise SearchError(msg)
    _require_residuals(whole, middle)
    return with_actions(
        whole,
        lambda step, block: (
            Action.DELTA if block in middle and not mask.computes[step] else Action.RUN
        ),
        method=method,
    )


def subnet_from_steps(pipeline: Pipeline, steps: Steps, options: Options, method: str) -> SubNet:
    """The SubNet that adds the cached residual over all blocks at the steps that a list leaves out.

    Raises:
        SearchError: the list is for another sampler, or some block does not add to its input.
    """
    inference_steps = options.steps or pipeline.default_steps
    calls = len(pipeline.sampler(TimestepGrid(inference_steps)).inputs)
    mask = StepMask(steps.computes(calls), first=0, last=0)
    found = subnet_from_mask(pipeline, mask, options)
    return dataclasses.replace(found, method=f"{method} {sum(mask.computes)} of {calls} steps")


def subnet_from_layers(pipeline: Pipeline, schedule: LayerSchedule, options: Options) -> SubNet:
    """The SubNet that reuses the layers of each kind at the steps at which a schedule does not compute them.

    Raises:
        SearchError: the schedule is for another sampler, or names layers that the denoiser does not have.
    """
    _require_steps(schedule.steps, pipeline, options.steps or pipeline.default_steps)
    return reusing_layers(_full(pipeline, options, Granularity.LAYER), schedule)


def reusing_layers(whole: SubNet, schedule: LayerSchedule) -> SubNet:
    """`whole`, at layer granularity, with the layers reused that a schedule does not compute.

    Raises:
        SearchError: the schedule names layers that the denoiser does not have.
    """
    found = [schedule.of(name) for name in whole.topology.blocks]
    used = [row for row in found if row is not None]
    unused = [
        key for key, row in schedule.computes.items() if not any(row is each for each in used)
    ]
    if unused:
        names = [kind if number is None else f"{kind}-{number}" for kind, number in unused]
        kinds = sorted({name.rpartition(".")[2] for name in whole.topology.blocks})
        msg = (
            f"the schedule has {names}, but no layer of this {whole.binding.denoiser} is called so; its "
            f"layers are {', '.join(kinds)}: rename them in the file, or give another pipeline"
        )
        raise SearchError(msg)

    def action(step: int, block: int) -> Action:
        row = found[block]
        return Action.RUN if row is None or row[step] else Action.REUSE

    return with_actions(whole, action, method="smoothcache")


def subnet_from_taylorseer(pipeline: Pipeline, settings: TaylorSeer, options: Options) -> SubNet:
    """The SubNet that forecasts modules from their last two outputs, as diffusers' TaylorSeer does.

    Raises:
        SearchError: no layer of the denoiser is among the modules, or nothing would be forecast.
    """
    whole = _full(pipeline, options, Granularity.LAYER)
    blocks = whole.topology.blocks
    chosen = {
        number
        for number, name in enumerate(blocks)
        if any(re.fullmatch(each, name) for each in settings.modules)
    }
    if not chosen:
        msg = (
            f"no layer of this {whole.binding.denoiser} is called {' or '.join(settings.modules)}; its "
            f"layers are {', '.join(sorted({name.rpartition('.')[2] for name in blocks}))}: name some in "
            "cache_identifiers"
        )
        raise SearchError(msg)
    return forecasting_layers(whole, frozenset(chosen), settings)


def forecasting_layers(whole: SubNet, chosen: frozenset[int], settings: TaylorSeer) -> SubNet:
    """`whole`, at layer granularity, with these of its blocks forecast where settings compute nothing.

    Raises:
        SearchError: nothing would be forecast.
    """
    computes = settings.computes(whole.steps)
    made = with_actions(
        whole,
        lambda step, block: (
            Action.FORECAST if block in chosen and not computes[step] else Action.RUN
        ),
        method=f"taylorseer interval {settings.interval}",
    )
    return dataclasses.replace(
        made,
        coefficients=tuple(
            (step, block, taylor_weights(computes, step)) for step, block, _ in made.coefficients
        ),
    )


def _require_residuals(whole: SubNet, span: range) -> None:
    """Refuse blocks to whose input nothing can be added: DELTA needs it of every block of the span."""
    names = whole.topology.blocks
    without = [names[block] for block in span if block not in whole.topology.based]
    if without:
        msg = (
            f"one cached residual is added over the {len(span)} blocks from {names[span[0]]!r} to "
            f"{names[span[-1]]!r}, but {without} do not emit what can be added to their input; give a "
            "pipeline with a transformer"
        )
        raise SearchError(msg)


def _full(pipeline: Pipeline, options: Options, granularity: Granularity) -> SubNet:
    from search.methods.whole import full

    return full(pipeline, dataclasses.replace(options, granularity=granularity))


def subnet_from_gates(
    pipeline: Pipeline, gates: Sequence[Mapping[Gate, bool]], options: Options
) -> SubNet:
    """The SubNet for `pipeline` that a DiP-GO gate file describes.

    Args:
        pipeline: with a U-Net.
        gates: per step, whether a gate keeps its block; see `search.foreign.gate_file`.
        options: steps, guidance and size.

    Raises:
        SearchError: the gates are for another sampler or another U-Net, or step 0 reuses a block.
    """
    _require_steps(len(gates), pipeline, options.steps or pipeline.default_steps)
    stages = pipeline.family.blocks(pipeline.denoiser, Granularity.STAGE)
    gate_of = gates_of_stages(stages)
    for step, row in enumerate(gates):
        _require_gates(step, row, set(gate_of.values()))
    early = [str(gate) for gate, keeps in gates[0].items() if not keeps]
    if early:
        msg = (
            f"the gates {early} reuse their blocks at step 0, when there is nothing to reuse yet; "
            "the first step must keep every block"
        )
        raise SearchError(msg)
    whole = _full(pipeline, options, Granularity.STAGE)
    # A removed block that is no stage has no gate.
    order = [gate_of.get(name) for name in whole.topology.blocks]

    def action(step: int, block: int) -> Action:
        gate = order[block]
        return Action.RUN if gate is None or gates[step][gate] else Action.REUSE

    return with_actions(whole, action, method="dip-go-gates")


def gates_of_stages(stages: Sequence[str]) -> dict[str, Gate]:
    """The gate of each stage of a U-Net; up blocks are counted from the last one."""
    ups = sum(name.startswith("up_") for name in stages)
    found = {}
    for name in stages:
        match = _STAGE.fullmatch(name)
        if match is None:
            msg = (
                f"DiP-GO's gate files are for U-Nets with down, middle and up blocks, but this "
                f"denoiser has {name!r}; give a pipeline with a U-Net"
            )
            raise SearchError(msg)
        kind, number = match[1] or match[3], int(match[2] or 0)
        found[name] = Gate(kind, ups - 1 - number if kind == "up" else number)
    return found


def _require_steps(steps: int, pipeline: Pipeline, inference_steps: int) -> None:
    calls = len(pipeline.sampler(TimestepGrid(inference_steps)).inputs)
    if steps != calls:
        msg = (
            f"the file has {steps} steps, but {type(pipeline.pipe.scheduler).__name__} with "
            f"--steps {inference_steps} makes {calls} calls; choose --steps or --scheduler so that "
            "both are equal"
        )
        raise SearchError(msg)


def _require_gates(step: int, row: Mapping[Gate, bool], expected: set[Gate]) -> None:
    missing = [str(gate) for gate in sorted(expected - row.keys())]
    extra = [str(gate) for gate in sorted(row.keys() - expected)]
    if missing or extra:
        msg = (
            f"step {step} of the gate file lacks {missing or 'no gate'} and has {extra or 'no gate'} "
            "beyond those of this U-Net; give the pipeline that the gates were made for"
        )
        raise SearchError(msg)
