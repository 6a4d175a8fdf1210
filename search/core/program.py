"""The loop unrolled into calls: what each computes, reads and writes, and which buffers hold it.

No ONNX and no torch: a pure function of the SubNet.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from search.core.liveness import Unrolled, unroll

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from search.core.sampler import SamplerTable
    from search.core.subnet import SubNet
    from search.core.topology import Topology


@dataclass(frozen=True)
class Signature:
    """What makes two calls the same graph.

    Attributes:
        computes: targets of the topology that the call computes; a sum is that of a SKIP if its
            residual is not among the reads.
        reads: tensors of the topology that it reads from the cache.
        writes: tensors it computes and a later call reads; calls that differ only in these share a
            signature that writes them all.
        predicts: whether it computes a noise prediction.
    """

    computes: tuple[int, ...]
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    predicts: bool


@dataclass(frozen=True)
class Call:
    """One call of the denoiser.

    Attributes:
        step: of the SubNet.
        timestep: what the denoiser is told.
        signature: index into `Program.signatures`.
        reads: per tensor that is read, the slot that holds it.
        writes: per tensor that is written, the slot to write to; one that nobody reads goes to a slot
            that holds nothing during this call.
        prediction: number of the noise prediction it makes, or None.
    """

    step: int
    timestep: float
    signature: int
    reads: dict[int, int]
    writes: dict[int, int]
    prediction: int | None


@dataclass(frozen=True)
class Program:
    """A SubNet unrolled.

    Attributes:
        signatures: the distinct calls.
        calls: in order.
        slots: shape of each cache buffer. A slot holds one value at a time and is never read and
            written by the same call.
        origins: per step of the SubNet, the step whose noise prediction it has.
        alive: per step of the SubNet, elements of all cached values that a later step still reads.
    """

    signatures: tuple[Signature, ...]
    calls: tuple[Call, ...]
    slots: tuple[tuple[int, ...], ...]
    origins: tuple[int, ...]
    alive: tuple[int, ...]

    @property
    def timesteps(self) -> tuple[float, ...]:
        """Those of the calls, each once."""
        return distinct(call.timestep for call in self.calls)

    def reduce(self, table: SamplerTable) -> SamplerTable:
        """The full sampler's table, one row per step, as one row per call of this program."""
        return table.merge(self.origins, [call.step for call in self.calls])

    def replaced(self, topology: Topology) -> frozenset[int]:
        """The blocks that DELTA or SKIP stands in for in some call."""
        computed = {target for signature in self.signatures for target in signature.computes}
        return frozenset(block for block in topology.deltas if topology.sum(block) in computed)

    def to_json(self, names: Mapping[int, str]) -> dict[str, Any]:
        """As plain JSON values, with tensors by name."""
        return {
            "calls": [
                {
                    "step": call.step,
                    "timestep": call.timestep,
                    "graph": call.signature,
                    "reads": {names[t]: slot for t, slot in call.reads.items()},
                    "writes": {names[t]: slot for t, slot in call.writes.items()},
                    "prediction": call.prediction,
                }
                for call in self.calls
            ],
            "slots": [list(shape) for shape in self.slots],
        }


def distinct(timesteps: Iterable[float]) -> tuple[float, ...]:
    """Each once, in the order of the calls: what the rows of the prologue's outputs stand for."""
    return tuple(dict.fromkeys(timesteps))


def plan_program(subnet: SubNet, batch: int) -> Program:
    """Unroll `subnet` for `batch` images per prompt."""
    unrolled = unroll(subnet)
    output = subnet.topology.output
    origins = tuple(unrolled.values[row[output]].step for row in unrolled.effective)
    predictions = sorted(set(origins))
    last_read = _last_reads(unrolled)
    signature_of = _signatures(unrolled, last_read)
    signatures = list(dict.fromkeys(signature_of.values()))
    buffers = _assign_slots(unrolled, last_read, signature_of, batch)
    return Program(
        signatures=tuple(signatures),
        calls=tuple(
            Call(
                step=step,
                timestep=subnet.timesteps[step],
                signature=signatures.index(signature),
                reads={
                    tensor: buffers.slot_of[number]
                    for tensor, number in sorted(_cache_reads(unrolled, step).items())
                },
                writes=dict(sorted(buffers.writes[step].items())),
                prediction=predictions.index(step) if signature.predicts else None,
            )
            for step, signature in signature_of.items()
        ),
        slots=tuple(buffers.shapes),
        origins=origins,
        alive=_alive(unrolled, last_read, batch),
    )


def _signatures(unrolled: Unrolled, last_read: dict[int, int]) -> dict[int, Signature]:
    """The signature of each step that makes a call.

    Calls that run the same operations on the same reads are one graph. It writes what any of them
    has to write, residuals included: these cost nothing but the subtraction.
    """
    topology = unrolled.topology
    alike: defaultdict[tuple[object, ...], list[int]] = defaultdict(list)
    for step in unrolled.calls:
        emitted = {t for t in unrolled.computed[step] if not topology.is_residual(t)}
        reads = frozenset(_cache_reads(unrolled, step))
        alike[frozenset(emitted), reads, frozenset(unrolled.segments[step])].append(step)
    found: dict[int, Signature] = {}
    for steps in alike.values():
        computes = {target for step in steps for target in unrolled.computed[step]}
        writes = {tensor for step in steps for tensor in _kept(unrolled, last_read, step)}
        signature = Signature(
            computes=tuple(sorted(computes)),
            reads=tuple(sorted(_cache_reads(unrolled, steps[0]))),
            writes=tuple(sorted(writes)),
            predicts=topology.output in computes,
        )
        found.update(dict.fromkeys(steps, signature))
    return {step: found[step] for step in unrolled.calls}


def _cache_reads(unrolled: Unrolled, step: int) -> dict[int, int]:
    """Tensors that the call of `step` reads from earlier steps, with the value each has."""
    values = unrolled.values
    return {
        unrolled.topology.tensor(values[read].target): read
        for number in unrolled.made[step]
        for read in values[number].reads
        if values[read].step < step
    }


def _kept(unrolled: Unrolled, last_read: dict[int, int], step: int) -> dict[int, int]:
    """Tensors of `step` that a later step reads, with the value each has."""
    return {
        unrolled.topology.tensor(unrolled.values[number].target): number
        for number in unrolled.made[step]
        if number in last_read
    }


def _last_reads(unrolled: Unrolled) -> dict[int, int]:
    """For each value that a later step reads, the last such step."""
    found: dict[int, int] = {}
    for number in unrolled.live:
        value = unrolled.values[number]
        for read in value.reads:
            if unrolled.values[read].step < value.step:
                found[read] = max(found.get(read, 0), value.step)
    return found


def _alive(unrolled: Unrolled, last_read: dict[int, int], batch: int) -> tuple[int, ...]:
    """Per step, elements of the values that were made until then and are read after it."""
    topology, found = unrolled.topology, [0] * len(unrolled.effective)
    for number, last in last_read.items():
        value = unrolled.values[number]
        for step in range(value.step, last):
            found[step] += batch * math.prod(topology.shape(topology.tensor(value.target)))
    return tuple(found)


class _Buffers:
    """The slots handed out so far.

    Attributes:
        shapes: of each slot.
        slot_of: where each cached value is held.
        writes: per step, the slot of each tensor it writes.
    """

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.slot_of: dict[int, int] = {}
        self.writes: dict[int, dict[int, int]] = {}
        self._free: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)

    def take(self, shape: tuple[int, ...]) -> int:
        """A slot of that shape that holds nothing."""
        if self._free[shape]:
            return self._free[shape].pop()
        self.shapes.append(shape)
        return len(self.shapes) - 1

    def release(self, slot: int) -> None:
        """Its value is not needed any more."""
        self._free[self.shapes[slot]].append(slot)


def _assign_slots(
    unrolled: Unrolled, last_read: dict[int, int], signature_of: dict[int, Signature], batch: int
) -> _Buffers:
    """A buffer for every tensor that is written.

    It is free again after the last call that reads it: after its own call if none does.
    """
    buffers = _Buffers()
    expiring: defaultdict[int, list[int]] = defaultdict(list)
    for step, signature in signature_of.items():
        kept = _kept(unrolled, last_read, step)
        writes = buffers.writes[step] = {}
        for tensor in signature.writes:
            rows, *rest = unrolled.topology.shape(tensor)
            writes[tensor] = buffers.take((rows * batch, *rest))
            until = last_read[kept[tensor]] if tensor in kept else step
            expiring[until].append(writes[tensor])
        buffers.slot_of |= {number: writes[tensor] for tensor, number in kept.items()}
        for slot in expiring[step]:
            buffers.release(slot)
    return buffers
