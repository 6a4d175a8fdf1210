"""The timestep loop unrolled: the values a SubNet computes, and their cost. Pure.

Every tensor of every step is given the number of the value it has. A block that is reused has the
number of its previous value. A block that runs has a new number, unless it reads neither latents nor
timestep and all it reads has the numbers of an earlier time: then it is that earlier value. Any other
action mixes values into a new one (`search/core/actions.py` says which). If the base of a DELTA is what
it was when the block ran, the mix is what the block emitted then. So a step whose noise prediction is an
earlier one is seen as such and needs no call. What is not reachable backwards from the noise predictions
is never computed.

Where DELTA stands for several blocks in a row, each handing on to the next, their residuals are one:
what the last of them emitted minus what the first was given. One tensor is cached for the whole span.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from search.core.actions import RECORDS, Source
from search.core.topology import (
    PREDICTION,
    Target,
    TargetKind,
    base_of,
    port_of,
    prediction_of,
    residual_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from search.core.subnet import SubNet
    from search.core.topology import Segment, Topology

WHOLE_DELTA = {Source.BASE: 1, Source.RESIDUAL: 1}


@dataclass(frozen=True)
class Value:
    """One tensor computed once in the whole loop.

    Attributes:
        step: the step that computes it.
        target: which target of the topology it is.
        reads: numbers of the values it is computed from.
        roles: per read, what that value is to the call that reads it.
        weights: of a mix, the coefficient of each source.
    """

    step: int
    target: Target
    reads: tuple[int, ...]
    roles: tuple[Target, ...]
    weights: tuple[tuple[Source, float], ...] = ()

    @property
    def tensor(self) -> Target:
        """What it is when it is cached: a mix stands in its port's place."""
        return port_of(self.target.port) if self.target.kind is TargetKind.MIX else self.target


@dataclass(frozen=True)
class Unrolled:
    """All steps of a SubNet as one graph of values.

    Attributes:
        topology: of the denoiser.
        values: every distinct value, live or not.
        effective: per step, the number of the value that each port and the noise prediction has.
        live: numbers of the values that some noise prediction needs.
    """

    topology: Topology
    values: tuple[Value, ...]
    effective: tuple[dict[Target, int], ...]
    live: frozenset[int]

    @cached_property
    def made(self) -> tuple[tuple[int, ...], ...]:
        """Per step, the numbers of the values that are computed in it."""
        found: list[set[int]] = [set() for _ in self.effective]
        for number in self.live - self.zeros:
            value = self.values[number]
            found[value.step] |= {number, *self.zeros.intersection(value.reads)}
        return tuple(tuple(sorted(made)) for made in found)

    @cached_property
    def zeros(self) -> frozenset[int]:
        """The values that are zeros: each step that reads them makes them, they are never cached."""
        return frozenset(
            number
            for number, value in enumerate(self.values)
            if value.target.kind is TargetKind.MIX
            and not value.reads
            and self.topology.bases[value.target.base].is_zeros
        )

    @cached_property
    def computed(self) -> tuple[frozenset[Target], ...]:
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

    def predicts(self, step: int) -> bool:
        """Whether a step computes a noise prediction."""
        return any(target.kind is TargetKind.PREDICTION for target in self.computed[step])

    @property
    def calls(self) -> tuple[int, ...]:
        """The steps that call the denoiser at all."""
        return tuple(step for step, targets in enumerate(self.computed) if targets)

    @property
    def params(self) -> int:
        """Weights that are read in at least one step."""
        return sum(s.params for s in {s for segments in self.segments for s in segments})

    @cached_property
    def cache_reads(self) -> tuple[dict[Target, int], ...]:
        """Per step, what its call reads from earlier steps: the role and the value's number."""
        return tuple(
            {
                role: read
                for number in made
                for role, read in zip(
                    self.values[number].roles, self.values[number].reads, strict=True
                )
                if self.values[read].step < step and read not in self.zeros
            }
            for step, made in enumerate(self.made)
        )

    @cached_property
    def last_reads(self) -> dict[int, int]:
        """For each value that a later step reads, the last such step."""
        return {
            number: step for step, reads in enumerate(self.cache_reads) for number in reads.values()
        }

    def written(self, step: int) -> dict[Target, int]:
        """The tensors that `step` makes, with the number of each value."""
        return {self.values[number].tensor: number for number in self.made[step]}

    def named(self, step: int) -> dict[str, int]:
        """By name, the number of the value that a tensor has for the call of `step`."""
        found = self.effective[step] | self.cache_reads[step] | self.written(step)
        return {self.topology.name(tensor): number for tensor, number in found.items()}


def unroll(subnet: SubNet) -> Unrolled:
    """Number the values of every step of `subnet` and find those that are needed."""
    loop = _Loop(subnet)
    for step in range(subnet.steps):
        loop.add_step(step)
    return Unrolled(
        topology=subnet.topology,
        values=tuple(loop.values),
        effective=tuple(loop.effective),
        live=_reachable(loop.values, {row[PREDICTION] for row in loop.effective}),
    )


class _Loop:
    """The steps numbered so far, and per port its residual and its last two runs."""

    def __init__(self, subnet: SubNet) -> None:
        self.subnet, self.topology = subnet, subnet.topology
        used = {source for row in subnet.actions for a in set(row) for source in RECORDS[a].row}
        self.keeps_residuals = Source.RESIDUAL in used
        self.values: list[Value] = []
        self.effective: list[dict[Target, int]] = []
        self._held: dict[tuple[Source, int], int] = {}
        self._numbers: dict[tuple[object, ...], int] = {}

    def add_step(self, step: int) -> None:
        """Number the values of the next step."""
        row: dict[Target, int] = {}
        for port in self.topology.ports_at(step):
            record = RECORDS[self.subnet.actions[step][self.topology.ports[port].block]]
            if record.copies is Source.FRESH:
                number = self._run(step, port, row)
            elif record.copies is not None:
                number = self._held[record.copies, port]
            else:
                number = self._mix(step, port, row)
            row[port_of(port)] = self._held[Source.EMITTED, port] = number
        row[PREDICTION] = self._computed(step, prediction_of(self.topology.group_of(step)), row)
        self.effective.append(row)

    def _run(self, step: int, port: int, row: Mapping[Target, int]) -> int:
        """The port's fresh value; what later actions may read of it is kept."""
        number = self._computed(step, port_of(port), row)
        if (Source.LAST, port) in self._held:
            self._held[Source.PREVIOUS, port] = self._held[Source.LAST, port]
        self._held[Source.LAST, port] = number
        if self.keeps_residuals and port in self.topology.bases:
            residual = residual_of(port)
            base = self._base_reads(port, row)
            self._held[Source.RESIDUAL, port] = self._number(
                step, residual, (*base.values(), number), (*base, port_of(port))
            )
        return number

    def _mix(self, step: int, port: int, row: Mapping[Target, int]) -> int:
        """What an action makes of several values."""
        action = self.subnet.actions[step][self.topology.ports[port].block]
        weights = self.subnet.weights(step, self.topology.ports[port].block)
        if weights == WHOLE_DELTA:
            known = self._unchanged(port, row)
            if known is not None:
                return known
        first, residual, base = port, self._held.get((Source.RESIDUAL, port)), dict[Target, int]()
        if Source.BASE in weights:
            base = self._base_reads(port, row)
        if weights == WHOLE_DELTA:
            first, residual, base = self._span(step, port, residual, base)
        reads, roles = [*base.values()], [*base]
        for source in weights:
            if source is Source.BASE:
                continue
            number = residual if source is Source.RESIDUAL else self._held[source, port]
            assert number is not None
            reads.append(number)
            roles.append(_role(source, port, first))
        target = Target(TargetKind.MIX, port, first if Source.BASE in weights else -1, action)
        return self._number(step, target, tuple(reads), tuple(roles), tuple(weights.items()))

    def _unchanged(self, port: int, row: Mapping[Target, int]) -> int | None:
        """The output of the block's last run, if its base is what it was then."""
        *base_then, output_then = self.values[self._held[Source.RESIDUAL, port]].reads
        base_now = [*self._base_reads(port, row).values()]
        # Zeros never change, but then the residual is the whole output.
        same = base_now == base_then and not self.topology.varies(base_of(port))
        return output_then if same else None

    def _span(
        self, step: int, port: int, residual: int | None, base: dict[Target, int]
    ) -> tuple[int, int | None, dict[Target, int]]:
        """The first port of a span of DELTAs that ends with `port`, its residual, what its base reads.

        The port before must have handed on to this one, now and when both ran.
        """
        before = self.topology.bases[port].port
        if before is None or residual is None:
            return port, residual, base
        [handed] = base.values()
        mixed, then = self.values[handed], self.values[residual]
        if mixed.step != step or mixed.weights != (*WHOLE_DELTA.items(),):
            return port, residual, base
        inner = self.values[mixed.reads[-1]]
        if inner.step != then.step or inner.reads[-1] != then.reads[0]:
            return port, residual, base
        first = mixed.target.base
        reads = (*inner.reads[:-1], then.reads[-1])
        roles = (*inner.roles[:-1], port_of(port))
        whole = self._number(inner.step, residual_of(port, first), reads, roles)
        count = len(mixed.reads) - 1
        return first, whole, dict(zip(mixed.roles[:count], mixed.reads[:count], strict=True))

    def _base_reads(self, port: int, row: Mapping[Target, int]) -> dict[Target, int]:
        return {port_of(r): row[port_of(r)] for r in self.topology.reads(base_of(port))}

    def _computed(self, step: int, target: Target, row: Mapping[Target, int]) -> int:
        """The number of a target that the denoiser computes from the ports of `row`."""
        roles = tuple(map(port_of, self.topology.reads(target)))
        return self._number(step, target, tuple(row[role] for role in roles), roles)

    def _number(
        self,
        step: int,
        target: Target,
        reads: tuple[int, ...],
        roles: tuple[Target, ...],
        weights: tuple[tuple[Source, float], ...] = (),
    ) -> int:
        key = (target, step if self.topology.varies(target) else -1, reads, weights)
        if key not in self._numbers:
            self._numbers[key] = len(self.values)
            self.values.append(Value(step, target, reads, roles, weights))
        return self._numbers[key]


def _role(source: Source, port: int, first: int) -> Target:
    """What a source is to the call that reads it."""
    if source is Source.RESIDUAL:
        return residual_of(port, first)
    return Target(TargetKind(source.value), port)


def _reachable(values: list[Value], wanted: set[int]) -> frozenset[int]:
    live: set[int] = set()
    pending = list(wanted)
    while pending:
        number = pending.pop()
        if number not in live:
            live.add(number)
            pending.extend(values[number].reads)
    return frozenset(live)
