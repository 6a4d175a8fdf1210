"""The timestep loop unrolled: which values a SubNet really computes, and what that costs. Pure.

Every target of every step is given the number of the value it has. A block that is reused has the
number of its previous value. A block that runs has a new number, unless it reads neither latents nor
timestep and all it reads has the numbers of an earlier time: then it is that earlier value. So a step
whose noise prediction is an earlier one is seen as such and needs no call. What is not reachable
backwards from the noise predictions is never computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from search.subnet import Action

if TYPE_CHECKING:
    from search.subnet import SubNet
    from search.topology import Segment, Topology


@dataclass(frozen=True)
class Value:
    """One tensor computed once in the whole loop.

    Attributes:
        step: the step that computes it.
        target: which target of the topology it is.
        reads: numbers of the values it is computed from.
    """

    step: int
    target: int
    reads: tuple[int, ...]


@dataclass(frozen=True)
class Unrolled:
    """All steps of a SubNet as one graph of values.

    Attributes:
        topology: of the denoiser.
        values: every distinct value, live or not.
        effective: per step and target, the number of the value it has.
        live: numbers of the values that some noise prediction needs.
    """

    topology: Topology
    values: tuple[Value, ...]
    effective: tuple[tuple[int, ...], ...]
    live: frozenset[int]

    @cached_property
    def computed(self) -> tuple[frozenset[int], ...]:
        """Per step, the targets that are computed in it."""
        found: list[set[int]] = [set() for _ in self.effective]
        for number in self.live:
            found[self.values[number].step].add(self.values[number].target)
        return tuple(frozenset(targets) for targets in found)

    @cached_property
    def segments(self) -> tuple[tuple[Segment, ...], ...]:
        """Per step, the segments that run."""
        known = {t: self.topology.needed(t) for t in set(self.computed)}
        return tuple(known[targets] for targets in self.computed)

    @cached_property
    def macs(self) -> tuple[int, ...]:
        """Per step, multiply-accumulates for one sample."""
        known = {id(s): sum(segment.macs for segment in s) for s in self.segments}
        return tuple(known[id(s)] for s in self.segments)

    @property
    def calls(self) -> tuple[int, ...]:
        """The steps that call the denoiser at all."""
        return tuple(step for step, targets in enumerate(self.computed) if targets)

    @property
    def params(self) -> int:
        """Weights that are read in at least one step."""
        return sum(s.params for s in {s for segments in self.segments for s in segments})


def unroll(subnet: SubNet) -> Unrolled:
    """Number the values of every step of `subnet` and find those that are needed.

    Only `RUN` and `REUSE` are understood; `SubNet.require` refuses the rest with a sentence.
    """
    subnet.require({Action.RUN, Action.REUSE})
    topology = subnet.topology
    values: list[Value] = []
    numbers: dict[tuple[int, int, tuple[int, ...]], int] = {}
    effective: list[tuple[int, ...]] = []
    for step, actions in enumerate(subnet.actions):
        row: list[int] = []
        for target in range(topology.output + 1):
            if target != topology.output and actions[topology.ports[target].block] is Action.REUSE:
                row.append(effective[-1][target])
                continue
            reads = tuple(row[port] for port in sorted(topology.reads[target]))
            key = (target, step if topology.varies[target] else -1, reads)
            if key not in numbers:
                numbers[key] = len(values)
                values.append(Value(step, target, reads))
            row.append(numbers[key])
        effective.append(tuple(row))
    return Unrolled(
        topology=topology,
        values=tuple(values),
        effective=tuple(effective),
        live=_reachable(values, {row[topology.output] for row in effective}),
    )


def _reachable(values: list[Value], wanted: set[int]) -> frozenset[int]:
    live: set[int] = set()
    pending = list(wanted)
    while pending:
        number = pending.pop()
        if number not in live:
            live.add(number)
            pending.extend(values[number].reads)
    return frozenset(live)
