"""The denoiser as a graph of blocks: which block reads which, and what each piece costs. Pure data."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from search.core.actions import Action
from search.core.groups import Groups

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class TargetKind(enum.StrEnum):
    """What a target is of its port."""

    PORT = "port"
    """The tensor itself, computed by its block."""
    PREDICTION = "prediction"
    """The noise prediction; it has no port."""
    BASE = "base"
    """The port's base (see `Base`); never cached itself."""
    RESIDUAL = "residual"
    """Port minus base."""
    MIX = "mix"
    """What an action other than RUN and REUSE emits in the port's place."""
    EMITTED = "emitted"
    """The port's most recent effective value, where an action mixes it with others."""
    LAST = "last"
    """The port's value at the most recent run of its block."""
    PREVIOUS = "previous"
    """The port's value at the run before that."""


class Target(NamedTuple):
    """A tensor that a call computes, reads from the cache or writes to it.

    Attributes:
        kind: what it is.
        port: of which port; -1 for the noise prediction, -2 for that of the steps of the second group
            (see `Groups`), and so on.
        base: the port whose base a residual was taken from or a mix is added to: its own, or that of
            an earlier block if the residual is that of a span of blocks; -1 where there is none.
        action: what a mix emits.
    """

    kind: TargetKind
    port: int = -1
    base: int = -1
    action: Action | None = None

    @staticmethod
    def from_json(data: list[Any]) -> Target:
        """Read what JSON made of one, a list."""
        kind, port, base, action = data
        return Target(
            TargetKind(kind), int(port), int(base), None if action is None else Action(action)
        )


PREDICTION = Target(TargetKind.PREDICTION)


def prediction_of(group: int) -> Target:
    """The noise prediction of the steps of a group; that of the first is `PREDICTION`."""
    return Target(TargetKind.PREDICTION, -1 - group)


def port_of(number: int) -> Target:
    """The target that is a port."""
    return Target(TargetKind.PORT, number)


def base_of(port: int) -> Target:
    """The target that is a port's base."""
    return Target(TargetKind.BASE, port)


def residual_of(port: int, base: int | None = None) -> Target:
    """The target that is a port's residual, from its own base if none is given."""
    return Target(TargetKind.RESIDUAL, port, port if base is None else base)


@dataclass(frozen=True)
class Port:
    """One tensor that a block emits.

    Attributes:
        block: index into `Topology.blocks`.
        index: position of the tensor among the block's flattened outputs.
        shape: its shape at one image per prompt, the batch of classifier-free guidance included.
    """

    block: int
    index: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Base:
    """The base of a port: what its block would emit if it did nothing. Its input, or zeros for a branch.

    The later calls of a step have the prediction of its first call as their base: with it in their place there is
    no guidance, and their residual is the direction of guidance.

    Attributes:
        argument: which of the block's tensor arguments it is, before the shortcut convolution if
            there is one; None for zeros and for the prediction of another call.
        port: the port whose tensor it is unchanged, if it is one's.
    """

    argument: int | None
    port: int | None = None

    @property
    def is_zeros(self) -> bool:
        """Whether it is zeros."""
        return self.argument is None and self.port is None

    @property
    def prediction(self) -> int | None:
        """The port of the call whose prediction it is, if it is one's."""
        return self.port if self.argument is None else None


@dataclass(frozen=True)
class Computation:
    """What leads to a port, a base or the noise prediction.

    Attributes:
        reads: the ports it reads, with no other port in between.
        varies: whether it reads the latents or the timestep.
    """

    reads: frozenset[int]
    varies: bool


@dataclass(frozen=True)
class Segment:
    """The operations that exactly the same targets need.

    Attributes:
        targets: the ports, bases and the prediction whose computation contains these operations.
        macs: multiply-accumulates of one call for one sample.
        params: weights these operations read.
        units: names of the modules these operations belong to.
        attention: how many of the MACs are the products of attention, queries with keys and weights
            with values; None if the file it was read from does not say.
    """

    targets: frozenset[Target]
    macs: int
    params: int
    units: frozenset[str]
    attention: int | None = None


@dataclass(frozen=True)
class Topology:
    """Blocks, the tensors they emit and their dependencies, from one trace.

    Ports stand in the order of computation, so what leads to a port reads only lower ones.

    Attributes:
        blocks: block names in order of execution.
        ports: every tensor the blocks emit.
        computations: of every port, of the prediction (of each group of steps) and of every base.
        segments: a partition of all operations; what a set of targets costs is the sum over the
            segments that any of them needs.
        bases: per port that has one, its base.
        groups: which steps do the same; None if all do, by calls of one network.
    """

    blocks: tuple[str, ...]
    ports: tuple[Port, ...]
    computations: dict[Target, Computation] = field(hash=False)
    segments: tuple[Segment, ...]
    bases: dict[int, Base] = field(hash=False)
    groups: Groups | None = None

    def __post_init__(self) -> None:
        """Check that all indices are in range; a wrong one is a `ValueError`."""
        numbers = range(len(self.ports))
        predictions = map(prediction_of, range(self.group_count))
        known = {*map(port_of, numbers), *predictions, *map(base_of, self.bases)}
        if set(self.computations) != known:
            msg = f"the topology, {len(self.computations)} computations for {len(known)} targets"
            raise ValueError(msg)
        if any(not 0 <= port.block < len(self.blocks) for port in self.ports):
            msg = "the topology, in which a port belongs to no block"
            raise ValueError(msg)
        for target, computation in self.computations.items():
            is_last = target.kind is TargetKind.PREDICTION
            end = len(self.ports) if is_last else target.port
            if any(not 0 <= read < end for read in computation.reads):
                msg = "the topology, in which a target reads a later one"
                raise ValueError(msg)
        if any(not segment.targets <= known for segment in self.segments):
            msg = "the topology, in which a segment belongs to no target"
            raise ValueError(msg)
        named = {*self.bases, *(b.port for b in self.bases.values() if b.port is not None)}
        if not named <= set(numbers):
            msg = "the topology, in which a base is no port"
            raise ValueError(msg)

    def has_blocks_of(self, traced: Topology) -> bool:
        """Whether it has the blocks of `traced`, which read one another as they do there.

        One from an older file may know fewer bases, and has no use for the others.
        """
        return (self.blocks, self.groups) == (traced.blocks, traced.groups) and all(
            traced.computations.get(target, Computation(frozenset({-1}), varies=False)).reads
            == computation.reads
            for target, computation in self.computations.items()
        )

    @property
    def group_count(self) -> int:
        """How many groups of steps there are."""
        return 1 if self.groups is None else len(self.groups.calls)

    def group_of(self, step: int) -> int:
        """The group of a step."""
        return 0 if self.groups is None else self.groups.of_steps[step]

    def calls_of(self, step: int) -> tuple[str, ...]:
        """The streams of a step, in the order of its calls."""
        return self.streams if self.groups is None else self.groups.calls[self.group_of(step)]

    @cached_property
    def _group_ports(self) -> tuple[tuple[int, ...], ...]:
        """Per group, the ports that its prediction is computed from, in order."""
        if self.groups is None:
            return (tuple(range(len(self.ports))),)
        found = []
        for group in range(self.group_count):
            seen: set[int] = set()
            pending = [prediction_of(group)]
            while pending:
                fresh = set(self.reads(pending.pop())) - seen
                seen |= fresh
                pending += [*map(port_of, fresh), *map(base_of, fresh & self.bases.keys())]
            found.append(tuple(sorted(seen)))
        return tuple(found)

    def ports_of_group(self, group: int) -> tuple[int, ...]:
        """The ports that the steps of a group have, in order."""
        return self._group_ports[group]

    def ports_at(self, step: int) -> tuple[int, ...]:
        """The ports that a step has, in order."""
        return self._group_ports[self.group_of(step)]

    @cached_property
    def _group_blocks(self) -> tuple[frozenset[int], ...]:
        return tuple(
            frozenset(self.ports[port].block for port in ports) for ports in self._group_ports
        )

    def has(self, step: int, block: int) -> bool:
        """Whether a step has a block: it calls the network that the block is in."""
        return self.groups is None or block in self._group_blocks[self.group_of(step)]

    def first_step(self, block: int) -> int:
        """The first step that has a block."""
        steps = (0,) if self.groups is None else range(len(self.groups.of_steps))
        return next(step for step in steps if self.has(step, block))

    @cached_property
    def ports_of(self) -> tuple[tuple[int, ...], ...]:
        """Per block, the indices of its ports."""
        found: list[list[int]] = [[] for _ in self.blocks]
        for i, port in enumerate(self.ports):
            found[port.block].append(i)
        return tuple(map(tuple, found))

    @cached_property
    def based(self) -> tuple[int, ...]:
        """The blocks all of whose ports have a base, so that they can pass their input on."""
        return tuple(
            block
            for block, ports in enumerate(self.ports_of)
            if ports and all(port in self.bases for port in ports)
        )

    def name(self, target: Target) -> str:
        """A readable name of a tensor that may be cached: the block, and which of its tensors."""
        if target.kind is TargetKind.PREDICTION:
            return "prediction"
        port = self.ports[target.port]
        block = self.blocks[port.block]
        if target.kind is TargetKind.RESIDUAL:
            first = self.blocks[self.ports[target.base].block]
            span = "" if target.base == target.port else f"{first}.."
            return f"{span}{block}{f':{port.index}' if port.index else ''}:residual"
        name = f"{block}:{port.index}"
        return name if target.kind in (TargetKind.PORT, TargetKind.MIX) else f"{name}:{target.kind}"

    def shape(self, target: Target) -> tuple[int, ...]:
        """Shape of a tensor at one image per prompt."""
        return self.ports[target.port].shape

    def reads(self, target: Target) -> tuple[int, ...]:
        """The ports that the operations of a target read, sorted: a mix has those of its base."""
        computation = self._computation(target)
        return () if computation is None else tuple(sorted(computation.reads))

    def varies(self, target: Target) -> bool:
        """Whether the operations of a target read the latents or the timestep."""
        computation = self._computation(target)
        return computation is not None and computation.varies

    def _computation(self, target: Target) -> Computation | None:
        return self.computations.get(operations_of(target))

    @cached_property
    def streams(self) -> tuple[str, ...]:
        """The calls of the denoiser that the steps make, in order; the empty name if each makes one."""
        if self.groups is not None:
            return self.groups.streams
        inside = {name.partition("/")[0] for name in self.blocks if "/" in name}
        return tuple(name for name in self.blocks if name in inside) or ("",)

    @cached_property
    def call_blocks(self) -> tuple[int, ...]:
        """The blocks that are a whole call of a network."""
        return tuple(i for i, name in enumerate(self.blocks) if name in self.streams)

    @cached_property
    def later_calls(self) -> tuple[str, ...]:
        """The calls that are not the first of any step, such as the one with the negative prompt."""
        groups = (self.streams,) if self.groups is None else self.groups.calls
        return tuple(dict.fromkeys(name for calls in groups for name in calls[1:]))

    @cached_property
    def macs(self) -> float:
        """Multiply-accumulates of one full step for one sample, attention products included.

        Of groups of steps it is their mean.
        """
        return self.mean(lambda segment: segment.macs)

    def mean(self, cost: Callable[[Segment], int]) -> float:
        """What one full step costs if each segment costs `cost`; of groups of steps their mean."""
        whole = [self._whole(group, cost) for group in range(self.group_count)]
        if self.groups is None:
            return whole[0]
        return sum(whole[group] for group in self.groups.of_steps) / len(self.groups.of_steps)

    def group_macs(self, group: int) -> int:
        """Multiply-accumulates of one full step of a group for one sample."""
        return self._whole(group, lambda segment: segment.macs)

    def _whole(self, group: int, cost: Callable[[Segment], int]) -> int:
        if self.groups is None:
            return sum(map(cost, self.segments))
        ports = map(port_of, self._group_ports[group])
        return sum(map(cost, self.needed({*ports, prediction_of(group)})))

    @cached_property
    def params(self) -> int:
        """Weights of the whole denoiser that any computation reads."""
        return sum(segment.params for segment in self.segments)

    def needed(self, targets: Iterable[Target]) -> tuple[Segment, ...]:
        """The segments that computing `targets` from their ports takes."""
        operations = {operations_of(target) for target in targets}
        return tuple(s for s in self.segments if not s.targets.isdisjoint(operations))

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; see docs/formats.md."""
        units = sorted({unit for segment in self.segments for unit in segment.units})
        unit = {name: i for i, name in enumerate(units)}
        number = {target: i for i, target in enumerate(self.computations)}
        return {
            **({} if self.groups is None else {"groups": self.groups.to_json()}),
            "blocks": list(self.blocks),
            "ports": [[p.block, p.index, list(p.shape)] for p in self.ports],
            "computations": [
                [target.kind, target.port, sorted(c.reads), c.varies]
                for target, c in self.computations.items()
            ],
            "bases": [[port, base.argument, base.port] for port, base in self.bases.items()],
            "units": units,
            "segments": [
                [
                    sorted(number[t] for t in s.targets),
                    s.macs,
                    s.params,
                    sorted(unit[u] for u in s.units),
                    s.attention,
                ]
                for s in self.segments
            ],
        }

    @staticmethod
    def from_json(data: dict[str, Any]) -> Topology:
        """Read what `to_json` wrote, of any schema."""
        if "computations" not in data:
            from search.core.topology_before_5 import upgraded

            data = upgraded(data)
        computations = {
            Target(TargetKind(kind), port): Computation(frozenset(reads), bool(varies))
            for kind, port, reads, varies in data["computations"]
        }
        targets, units = list(computations), data["units"]
        found = Topology(
            blocks=tuple(data["blocks"]),
            ports=tuple(Port(block, index, tuple(shape)) for block, index, shape in data["ports"]),
            computations=computations,
            segments=tuple(
                Segment(
                    frozenset(targets[i] for i in needing),
                    macs,
                    params,
                    frozenset(units[i] for i in numbers),
                    attention,
                )
                for needing, macs, params, numbers, attention in data["segments"]
            ),
            bases={port: Base(argument, same) for port, argument, same in data["bases"]},
            groups=Groups.from_json(data["groups"]) if data.get("groups") else None,
        )
        from search.core.topology_before_9 import without_inputs_of_calls

        return without_inputs_of_calls(found)


def operations_of(target: Target) -> Target:
    """The target whose operations of the denoiser computing `target` takes: of a mix, its base."""
    if target.kind in (TargetKind.PORT, TargetKind.PREDICTION, TargetKind.BASE):
        return target
    return base_of(target.base)
