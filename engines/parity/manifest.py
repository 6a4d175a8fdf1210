"""A bundle's calls, caches and coefficients against those of its SubNet; no number is computed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from search.core.liveness import unroll
from search.core.program import plan_program

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from exporter.bundle import Bundle
    from search.core.liveness import Unrolled
    from search.core.program import Program
    from search.core.sampler import SamplerTable

ROUNDING = 1e-6
"""Tolerance relative to a row's largest coefficient: library versions compute tables slightly differently."""


def check_manifest(bundle: Bundle, table: SamplerTable) -> tuple[str, ...]:
    """The faults of a bundle's calls, caches and coefficients, one sentence each.

    Args:
        bundle: to check.
        table: of the full sampler, one row per step of the SubNet.
    """
    program = plan_program(bundle.subnet, bundle.latent_shape[0])
    expected = [(call.step, call.timestep, call.prediction) for call in program.calls]
    found = [(call.step, call.timestep, call.prediction) for call in bundle.calls]
    if found != expected:
        number = next(
            (n for n, pair in enumerate(zip(found, expected, strict=False)) if pair[0] != pair[1]),
            min(len(found), len(expected)),
        )
        msg = (
            f"call {number} of {len(found)} has (step, timestep, prediction) "
            f"{found[number : number + 1]}, the SubNet asks for {expected[number : number + 1]}; "
            "export again"
        )
        return (msg,)
    return (
        *_cache_faults(bundle),
        *_coefficient_faults(bundle, program),
        *_sampler_faults(bundle, program.reduce(table)),
    )


def _coefficient_faults(bundle: Bundle, program: Program) -> Iterator[str]:
    """What the actions of a call mix with other numbers than the SubNet's."""
    expected = program.to_json(bundle.subnet.topology.name)["calls"]
    for number, (call, wanted) in enumerate(zip(bundle.calls, expected, strict=True)):
        for name in sorted(call.coefficients.keys() | wanted["coefficients"].keys()):
            found, right = call.coefficients.get(name), wanted["coefficients"].get(name)
            if found != right:
                yield (
                    f"call {number} (step {call.step}) has {name} {found}, the SubNet asks for {right}; "
                    "export again"
                )


def _cache_faults(bundle: Bundle) -> Iterator[str]:
    """Follow the content of every slot through the calls."""
    unrolled = unroll(bundle.subnet)
    held: dict[int, tuple[int, str]] = {}
    for number, call in enumerate(bundle.calls):
        values = unrolled.named(call.step)
        for name, slot in call.reads.items():
            wanted = _made(unrolled, values, name)
            if held.get(slot) != wanted:
                yield (
                    f"call {number} (step {call.step}) reads {name!r} from slot {slot}, which then "
                    f"holds {_holding(held, slot)}; the SubNet asks for {wanted[1]!r} of step {wanted[0]}"
                )
        if both := sorted(set(call.reads.values()) & set(call.writes.values())):
            yield f"call {number} (step {call.step}) reads and writes slots {both}; export again"
        held |= {slot: _made(unrolled, values, name) for name, slot in call.writes.items()}


def _made(unrolled: Unrolled, values: Mapping[str, int], name: str) -> tuple[int, str]:
    """The step that made `name`, and its name there; step -1 if none did."""
    if name not in values:
        return -1, name
    value = unrolled.values[values[name]]
    return value.step, unrolled.topology.name(value.tensor)


def _holding(held: Mapping[int, tuple[int, str]], slot: int) -> str:
    if slot not in held:
        return "nothing"
    step, name = held[slot]
    return f"{name!r} of step {step}"


def _sampler_faults(bundle: Bundle, table: SamplerTable) -> Iterator[str]:
    """Coefficients that are not the sampler's own."""
    if (bundle.sampler.known, bundle.sampler.final.size) != (table.known, table.final.size):
        yield (
            f"the sampler knows {bundle.sampler.known} of {bundle.sampler.final.size} values beforehand, "
            f"the pipeline's {table.known} of {table.final.size}; export again"
        )
        return
    rows = [
        *zip(
            (f"the input of call {n} (step {call.step})" for n, call in enumerate(bundle.calls)),
            bundle.sampler.inputs,
            table.inputs,
            strict=True,
        ),
        ("the final latents", bundle.sampler.final, table.final),
    ]
    for what, row, right in rows:
        off = np.abs(row - right)
        column = int(np.argmax(np.where(np.isnan(off), np.inf, off)))
        if not off[column] <= ROUNDING * np.abs(right).max():
            of = (
                f"known value {column}"
                if column < table.known
                else f"noise prediction {column - table.known}"
            )
            yield (
                f"the sampler's coefficient of {of} for {what} is {row[column]:.6g}, "
                f"the pipeline's is {right[column]:.6g}; export again"
            )
