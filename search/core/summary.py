"""A SubNet in figures: calls, signatures, cost, caches. What `stepcarve inspect` prints."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from search.core.actions import Action
from search.core.liveness import Unrolled, unroll
from search.core.precision import precision_named
from search.core.program import plan_program
from search.core.timestep_grid import FROM_NOISE
from search.core.topology import TargetKind

if TYPE_CHECKING:
    from search.core.subnet import SubNet


def cells(subnet: SubNet) -> list[list[Action | None]]:
    """Per step and block, its action after dead work is removed; None is neither computed nor read.

    REUSE stands for all that is read from the cache as it is.
    """
    unrolled = unroll(subnet)
    return [
        [_cell(subnet, unrolled, step, block) for block in range(len(subnet.topology.blocks))]
        for step in range(subnet.steps)
    ]


def _cell(subnet: SubNet, unrolled: Unrolled, step: int, block: int) -> Action | None:
    topology, computed = subnet.topology, unrolled.computed[step]
    if not topology.has(step, block):
        return None
    ports = topology.ports_of[block]
    mine = {target.kind for target in computed if target.port in ports}
    if TargetKind.PORT in mine:
        return Action.RUN
    if TargetKind.MIX in mine:
        return subnet.actions[step][block]
    read = {port for target in computed for port in topology.reads(target)}
    return None if read.isdisjoint(ports) else Action.REUSE


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
        "guidance": subnet.guidance,
        "guidance_range": subnet.guidance_range,
        "timesteps": list(subnet.timesteps),
        "call_timesteps": [subnet.timesteps[call.step] for call in program.calls],
        "grid": vars(subnet.binding.grid),
        "begins": subnet.binding.grid.begins,
        "actions": [list(row) for row in subnet.actions],
        "coefficients": [[step, block, list(w)] for step, block, w in subnet.coefficients],
        "count": {
            action: sum(
                each is action and topology.has(step, block)
                for step, row in enumerate(subnet.actions)
                for block, each in enumerate(row)
            )
            for action in Action
        },
        **({} if topology.groups is None else {"groups": topology.groups.to_json()}),
    }


def _without_attention(subnet: SubNet, unrolled: Unrolled) -> dict[str, float | None]:
    """The cost without the products of attention, as DiP-GO's paper counts; None if unknown."""
    names = ("macs_full_without_attention", "macs_kept_without_attention", "keep_without_attention")
    segments = subnet.topology.segments
    if any(segment.attention is None for segment in segments):
        return dict.fromkeys(names)
    full = subnet.full_calls * subnet.topology.mean(lambda s: s.macs - (s.attention or 0))
    kept = sum(s.macs - (s.attention or 0) for running in unrolled.segments for s in running)
    return dict(zip(names, (full, kept, kept / full), strict=True))


def one_line(summary: dict[str, Any]) -> str:
    """What `summarise` found, for people."""
    graphs = "graph" if summary["signatures"] == 1 else "graphs"
    end = summary["grid"]["end_step"]
    part = "" if summary["begins"] == FROM_NOISE else f"; {summary['begins']}"
    part += "" if end is None else f"; ends before step {end}"
    return (
        f"{summary['method']}: {summary['calls']} calls in {summary['steps']} steps, "
        f"{summary['signatures']} distinct {graphs}, keeps {summary['keep']:.1%} of the MACs "
        f"({summary['macs_kept'] / 1e9:.2f} of {summary['macs_full'] / 1e9:.2f} G), "
        f"cache {summary['cache_bytes'] / 1e6:.2f} MB{part}"
    )


def call_times(summary: dict[str, Any]) -> str:
    """The timesteps of a fitted SubNet's calls, as a text."""
    times = ", ".join(f"{timestep:g}" for timestep in summary["call_timesteps"])
    low, high = summary["guidance_range"]
    scales = f" for guidance {low:g} to {high:g}" if low < high else ""
    return f"fitted sampler{scales}, calls at timesteps {times}"
