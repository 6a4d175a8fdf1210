"""The timestep loop unrolled: which values a SubNet really computes, and what that costs. Pure.

Every tensor of every step is given the number of the value it has. A block that is reused has the
number of its previous value. A block that runs has a new number, unless it reads neither latents nor
timestep and all it reads has the numbers of an earlier time: then it is that earlier value. A block
under DELTA has the number of its base plus the residual of its last run; if its base is what it was
then, that is what it emitted then. A block under SKIP has the number of its base. So a step whose noise prediction is an earlier one is seen as such
and needs no call. What is not reachable backwards from the noise predictions is never computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from search.core.subnet import Action

if TYPE_CHECKING:
    from collections.abc import Sequence

    from search.core.subnet import SubNet
    from search.core.topology import Segment, Topology


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
        effective: per step, the number of the value that each port, the noise prediction (under the
            number of its target) and each residual held for a later DELTA has.
        live: numbers of the values that some noise prediction needs.
    """

    topology: Topology
    values: tuple[Value, ...]
    effective: tuple[dict[int, int], ...]
    live: frozenset[int]

    @cached_property
    def made(self) -> tuple[tuple[int, ...], ...]:
        """Per step, the numbers of the values that are computed in it, in order."""
        found: list[list[int]] = [[] for _ in self.effective]
        for number in sorted(self.live):
            found[self.values[number].step].append(number)
        return tuple(map(tuple, found))

    @cached_property
    def computed(self) -> tuple[frozenset[int], ...]:
        """Per step, the targets that are computed in it."""
        return tuple(frozenset(self.values[n].target for n in made) for made in self.made)

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
    """Number the values of every step of `subnet` and find those that are needed."""
    topology = subnet.topology
    loop = _Loop(
        topology, {b for row in subnet.actions for b, a in enumerate(row) if a is Action.DELTA}
    )
    for actions in subnet.actions:
        loop.add_step(actions)
    return Unrolled(
        topology=topology,
        values=tuple(loop.values),
        effective=tuple(loop.effective),
        live=_reachable(loop.values, {row[topology.output] for row in loop.effective}),
    )


class _Loop:
    """The steps numbered so far; residuals are kept for the blocks in `deltas`."""

    def __init__(self, topology: Topology, deltas: set[int]) -> None:
        self.topology, self.deltas = topology, deltas
        self.values: list[Value] = []
        self.effective: list[dict[int, int]] = []
        self._numbers: dict[tuple[int, int, tuple[int, ...]], int] = {}

    def add_step(self, actions: Sequence[Action]) -> None:
        """Number the values of the next step."""
        topology, step = self.topology, len(self.effective)
        before = self.effective[-1] if self.effective else {}
        row = {tensor: number for tensor, number in before.items() if tensor > topology.output}
        for port, owner in enumerate(topology.ports):
            action = actions[owner.block]
            if action is Action.REUSE:
                row[port] = before[port]
            elif action is Action.DELTA:
                row[port] = self._sum(step, owner.block, row)
            elif action is Action.SKIP:
                row[port] = self._base(step, owner.block, row)
            else:
                row[port] = self._value(step, port, row)
                if owner.block in self.deltas:
                    residual = topology.residual(owner.block)
                    row[residual] = self._value(step, residual, row)
        row[topology.output] = self._value(step, topology.output, row)
        self.effective.append(row)

    def _sum(self, step: int, block: int, row: dict[int, int]) -> int:
        """What DELTA emits: the output of the block's last run if its base has not changed since."""
        total = self.topology.sum(block)
        *base_then, output_then = self.values[row[self.topology.residual(block)]].reads
        base_now = [row[tensor] for tensor in sorted(self.topology.reads[total])][:-1]
        if base_now == base_then and not self.topology.varies[total]:
            return output_then
        return self._value(step, total, row)

    def _base(self, step: int, block: int, row: dict[int, int]) -> int:
        """What SKIP emits: the sum without its residual."""
        total = self.topology.sum(block)
        base = self.topology.reads[total] - {self.topology.residual(block)}
        return self._number(step, total, tuple(row[tensor] for tensor in sorted(base)))

    def _value(self, step: int, target: int, row: dict[int, int]) -> int:
        """The number of a target computed from the tensors of `row`."""
        reads = tuple(row[tensor] for tensor in sorted(self.topology.reads[target]))
        return self._number(step, target, reads)

    def _number(self, step: int, target: int, reads: tuple[int, ...]) -> int:
        key = (target, step if self.topology.varies[target] else -1, reads)
        if key not in self._numbers:
            self._numbers[key] = len(self.values)
            self.values.append(Value(step, target, reads))
        return self._numbers[key]


def _reachable(values: list[Value], wanted: set[int]) -> frozenset[int]:
    live: set[int] = set()
    pending = list(wanted)
    while pending:
        number = pending.pop()
        if number not in live:
            live.add(number)
            pending.extend(values[number].reads)
    return frozenset(live)
