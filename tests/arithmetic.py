"""Toy denoisers as arithmetic: each tensor is one number, and a SubNet can be worked out by hand."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from search.core.actions import RECORDS, Action, Source
from search.core.topology import (
    Target,
    TargetKind,
    base_of,
    port_of,
    prediction_of,
    residual_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from search.core.program import Call, Program, Signature
    from search.core.subnet import SubNet
    from search.core.topology import Topology


def worked_out(table: SubNet) -> list[float]:
    """The prediction of each step; every block does what its action says, one after the other."""
    topology = table.topology
    emitted: dict[int, float] = {}
    ran: dict[int, list[tuple[float, float]]] = {}
    predictions = []
    for step, actions in enumerate(table.actions):
        for port, owner in enumerate(topology.ports):
            if not topology.has(step, owner.block):
                continue
            action = actions[owner.block]
            base = _base(topology, port, step, emitted) if port in topology.bases else 0.0
            if action is Action.RUN:
                fresh = _computed(topology, port_of(port), step, emitted)
                emitted[port] = fresh
                ran.setdefault(port, []).append((fresh, base))
            elif action is Action.DELTA:
                output, base_then = ran[port][-1]
                emitted[port] = base + output - base_then
            elif action is Action.SKIP:
                emitted[port] = base
            elif action is Action.FORECAST:
                weights = {(s, b): given for s, b, given in table.coefficients}
                of_last, of_previous = weights[step, owner.block]
                emitted[port] = of_last * ran[port][-1][0] + of_previous * ran[port][-2][0]
        mine = prediction_of(topology.group_of(step))
        predictions.append(_computed(topology, mine, step, emitted))
    return predictions


def executed(table: SubNet, program: Program) -> list[float]:
    """The prediction of each step, by the calls of a program with what their slots hold.

    A call knows its signature, its step for what reads the timestep, and its coefficients.
    """
    held: dict[int, float] = {}
    predictions: dict[int, float] = {}
    for call in program.calls:
        signature = program.signatures[call.signature]
        read = {tensor: held[slot] for tensor, slot in call.reads.items()}
        graph = _Graph(table.topology, signature, call, read)
        held |= {slot: graph.value(tensor) for tensor, slot in call.writes.items()}
        if call.prediction is not None:
            mine = prediction_of(table.topology.group_of(call.step))
            predictions[call.step] = graph.value(mine)
    return [predictions[origin] for origin in program.origins]


@dataclass(frozen=True)
class _Graph:
    topology: Topology
    signature: Signature
    call: Call
    read: Mapping[Target, float]

    def value(self, target: Target) -> float:
        """A tensor of the call: what is not read from the cache must be among what it computes."""
        if target in self.read:
            return self.read[target]
        for mix in self.signature.mixes:
            if target == port_of(mix.port):
                return self._mixed(mix)
        assert target in self.signature.computes or target.kind is TargetKind.RESIDUAL, target
        if target.kind is TargetKind.RESIDUAL:
            return self.value(port_of(target.port)) - self._base(target.base)
        return _computed(self.topology, target, self.call.step, self._ports(target))

    def _mixed(self, mix: Target) -> float:
        assert mix.action is not None
        record = RECORDS[mix.action]
        given = dict(zip(record.free, self.call.coefficients.get(mix, ()), strict=True))
        total = 0.0
        for source, weight in record.row.items():
            if source is Source.BASE:
                part = self._base(mix.base)
            elif source is Source.RESIDUAL:
                part = self.read[residual_of(mix.port, mix.base)]
            else:
                part = self.read[Target(TargetKind(source.value), mix.port)]
            total += (given[source] if weight is None else weight) * part
        return total

    def _base(self, port: int) -> float:
        return _base(self.topology, port, self.call.step, self._ports(base_of(port)))

    def _ports(self, target: Target) -> dict[int, float]:
        return {port: self.value(port_of(port)) for port in self.topology.reads(target)}


def _base(topology: Topology, port: int, step: int, values: Mapping[int, float]) -> float:
    base = topology.bases[port]
    if base.argument is None:
        return 0.0
    if base.port is not None:
        return values[base.port]
    return _computed(topology, base_of(port), step, values)


def _computed(topology: Topology, target: Target, step: int, values: Mapping[int, float]) -> float:
    """A number that is another one if anything is that the target depends on."""
    moment = step if topology.varies(target) else "always"
    draw = random.Random(f"{target.kind} {target.port} {moment}").random
    return draw() + sum((0.5 + draw()) * values[port] for port in topology.reads(target))
