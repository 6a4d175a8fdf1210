"""A SubNet's sampler as a scheduler of diffusers: its configuration, and the module that reads it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.errors import ExportError
from search.core.actions import Action
from search.core.files import write_atomically
from search.core.program import plan_program
from search.core.sampler import FittedSampler
from search.model import fitted_scheduler

if TYPE_CHECKING:
    from collections.abc import Sequence

    from search.core.sampler import SamplerTable
    from search.core.subnet import SubNet
    from search.model.fitted_scheduler import FittedScheduler

CONFIG = "scheduler_config.json"


def predicting_steps(subnet: SubNet) -> tuple[int, ...]:
    """The steps of `subnet` that make a noise prediction, in order.

    Raises:
        ExportError: it begins from a picture or ends early.
    """
    grid = subnet.binding.grid
    if not grid.is_whole:
        end = "" if grid.end_step is None else f" and ends before step {grid.end_step}"
        msg = (
            f"this SubNet {grid.begins}{end}, but an exported sampler goes from noise to the end; export "
            "a SubNet that was searched without --start-step, --end-step and --add-noise"
        )
        raise ExportError(msg)
    return tuple(sorted(set(_origins(subnet))))


def reduced_sampler(subnet: SubNet, table: SamplerTable) -> FittedSampler:
    """The steps of `subnet` that make a noise prediction, and the rows of `table` between them.

    Args:
        subnet: one row of `table` per step.
        table: its fitted sampler's, or that of the scheduler it is bound to.

    Raises:
        ExportError: see `predicting_steps`; the sampler draws noise, or steps leave out a half of guidance.
    """
    steps = predicting_steps(subnet)
    if table.noises > 1:
        msg = (
            f"{subnet.binding.scheduler} draws noise at its steps, which coefficients alone cannot do; use that "
            "scheduler itself, or export a SubNet whose scheduler draws none"
        )
        raise ExportError(msg)
    _require_whole_calls(subnet, steps)
    timesteps, origins = tuple(subnet.timesteps[step] for step in steps), _origins(subnet)
    by_scale = None if subnet.fitted is None else subnet.fitted.by_scale
    if by_scale is not None:
        powers = tuple(power.merge(origins, steps) for power in by_scale.powers)
        by_scale = replace(by_scale, powers=powers)
    return FittedSampler(timesteps, table.merge(origins, steps), by_scale)


def _require_whole_calls(subnet: SubNet, steps: Sequence[int]) -> None:
    """Refuse rows that read predictions with a half of guidance left out."""
    calls = subnet.topology.call_blocks
    halves = [s for s in steps if any(subnet.actions[s][call] is not Action.RUN for call in calls)]
    if halves:
        msg = (
            f"{len(halves)} of {len(steps)} steps leave out a half of guidance, and the coefficients are for these "
            "predictions; a scheduler alone cannot leave it out; use search.apply, or search again with --no-thin"
        )
        raise ExportError(msg)


def _origins(subnet: SubNet) -> tuple[int, ...]:
    """Per step, the step whose noise prediction it has."""
    return plan_program(subnet, 1).origins


def write_scheduler(scheduler: FittedScheduler, out: Path) -> None:
    """Write the configuration, and beside it a copy of the module, for those without stepcarve."""
    module = Path(fitted_scheduler.__file__)
    write_atomically(out / module.name, module.read_bytes())
    write_atomically(out / CONFIG, scheduler.to_json_string())


def not_included(subnet: SubNet) -> str | None:
    """What `subnet` does beside its sampler, in words; None if that is all."""
    steps = predicting_steps(subnet)
    thinned = [
        step for step in steps if any(action is not Action.RUN for action in subnet.actions[step])
    ]
    if not thinned:
        return None
    actions = sorted({a for step in thinned for a in subnet.actions[step]} - {Action.RUN})
    return (
        f"the blocks that {len(thinned)} of {len(steps)} calls do not compute ({', '.join(actions)}): "
        "with this scheduler every call computes all of them"
    )
