"""A SubNet in figures: calls, signatures, cost, caches. What `stepcarve inspect` prints."""

from __future__ import annotations

import enum
import math
from typing import TYPE_CHECKING, Any

from search.core.course import FROM_NOISE
from search.core.liveness import Unrolled, unroll
from search.core.precision import precision_named
from search.core.program import plan_program
from search.core.subnet import Action

if TYPE_CHECKING:
    from search.core.subnet import SubNet


class Cell(enum.StrEnum):
    """What becomes of one block at one step once dead work is gone."""

    COMPUTED = "computed"
    DELTA = "delta"
    """Not computed: its fresh input plus its cached residual is read."""
    SKIPPED = "skipped"
    """Not computed: its fresh input is read."""
    HELD = "held"
    """Not computed, but its earlier output is read."""
    GONE = "gone"
    """Neither computed nor read."""


def cells(subnet: SubNet) -> list[list[Cell]]:
    """Per step and block, what becomes of it."""
    unrolled = unroll(subnet)
    return [
        [_cell(unrolled, step, ports) for ports in subnet.topology.ports_of]
        for step in range(subnet.steps)
    ]


def _cell(unrolled: Unrolled, step: int, ports: tuple[int, ...]) -> Cell:
    computed = unrolled.computed[step]
    if not computed.isdisjoint(ports):
        return Cell.COMPUTED
    topology, values = unrolled.topology, unrolled.values
    for value in (values[number] for number in unrolled.made[step]):
        if topology.is_sum(value.target) and topology.tensor(value.target) in ports:
            adds = any(topology.is_residual(values[read].target) for read in value.reads)
            return Cell.DELTA if adds else Cell.SKIPPED
    read = {port for target in computed for port in topology.reads[target]}
    return Cell.GONE if read.isdisjoint(ports) else Cell.HELD


def summarise(subnet: SubNet, batch: int = 1, dtype: str = "float32") -> dict[str, Any]:
    """Figures of a SubNet as JSON values. MACs are for one sample, caches have `dtype`."""
    unrolled = unroll(subnet)
    program = plan_program(subnet, batch)
    topology = subnet.topology
    full, kept = subnet.full_calls * topology.macs, sum(unrolled.macs)
    return {
        "method": subnet.method,
        "origin": None if subnet.origin is None else subnet.origin.to_json(),
        "granularity": subnet.granularity,
        "denoiser": subnet.binding.denoiser,
        "scheduler": subnet.binding.scheduler,
        "steps": subnet.steps,
        "full_calls": subnet.full_calls,
        "blocks": list(topology.blocks),
        "calls": len(program.calls),
        "signatures": len(program.signatures),
        "macs_full": full,
        "macs_kept": kept,
        "keep": kept / full,
        **_without_attention(subnet, unrolled),
        "params": topology.params,
        "params_kept": unrolled.params,
        "cache_bytes": sum(math.prod(shape) for shape in program.slots)
        * precision_named(dtype).bytes,
        "cache_bytes_per_step": [alive * precision_named(dtype).bytes for alive in program.alive],
        "macs_per_step": list(unrolled.macs),
        "signature_per_call": [call.signature for call in program.calls],
        "fitted": subnet.fitted is not None,
        "timesteps": list(subnet.timesteps),
        "call_timesteps": [subnet.timesteps[call.step] for call in program.calls],
        "course": vars(subnet.binding.course),
        "begins": subnet.binding.course.begins,
        "actions": [list(row) for row in subnet.actions],
        "reused": sum(action is Action.REUSE for row in subnet.actions for action in row),
        "deltas": sum(action is Action.DELTA for row in subnet.actions for action in row),
        "skips": sum(action is Action.SKIP for row in subnet.actions for action in row),
    }


def _without_attention(subnet: SubNet, unrolled: Unrolled) -> dict[str, float | None]:
    """The cost without the products of attention, as DiP-GO's paper counts; None if unknown."""
    names = ("macs_full_without_attention", "macs_kept_without_attention", "keep_without_attention")
    segments = subnet.topology.segments
    if any(segment.attention is None for segment in segments):
        return dict.fromkeys(names)
    full = subnet.full_calls * sum(s.macs - (s.attention or 0) for s in segments)
    kept = sum(s.macs - (s.attention or 0) for running in unrolled.segments for s in running)
    return dict(zip(names, (full, kept, kept / full), strict=True))


def one_line(summary: dict[str, Any]) -> str:
    """What `summarise` found, for people."""
    graphs = "graph" if summary["signatures"] == 1 else "graphs"
    end = summary["course"]["end_step"]
    part = "" if summary["begins"] == FROM_NOISE else f"; {summary['begins']}"
    part += "" if end is None else f"; ends before step {end}"
    return (
        f"{summary['method']}: {summary['calls']} calls in {summary['steps']} steps, "
        f"{summary['signatures']} distinct {graphs}, keeps {summary['keep']:.1%} of the MACs "
        f"({summary['macs_kept'] / 1e9:.2f} of {summary['macs_full'] / 1e9:.2f} G), "
        f"cache {summary['cache_bytes'] / 1e6:.2f} MB{part}"
    )


def call_times(summary: dict[str, Any]) -> str:
    """When a SubNet with a sampler of its own calls the denoiser, for people."""
    times = ", ".join(f"{timestep:g}" for timestep in summary["call_timesteps"])
    return f"fitted sampler, calls at timesteps {times}"
