"""The loop unrolled into calls: what each computes, reads and writes, and which buffers hold it.

No ONNX and no torch: a pure function of the SubNet.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from search.liveness import Unrolled, unroll

if TYPE_CHECKING:
    from search.sampler import SamplerTable
    from search.subnet import SubNet
    from search.topology import Topology


@dataclass(frozen=True)
class Signature:
    """What makes two calls the same graph.

    Attributes:
        computes: targets of the topology that the call computes.
        reads: ports it reads from the cache.
        writes: ports it computes and a later call reads.
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
        reads: per port that is read, the slot that holds it.
        writes: per port that is written, the slot to write to.
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
    """

    signatures: tuple[Signature, ...]
    calls: tuple[Call, ...]
    slots: tuple[tuple[int, ...], ...]
    origins: tuple[int, ...]

    def reduce(self, table: SamplerTable) -> SamplerTable:
        """The full sampler's table, one row per step, as one row per call of this program."""
        return table.merge(self.origins, [call.step for call in self.calls])

    def to_json(self, port_names: list[str]) -> dict[str, Any]:
        """As plain JSON values, with ports by name."""
        return {
            "calls": [
                {
                    "step": call.step,
                    "timestep": call.timestep,
                    "graph": call.signature,
                    "reads": {port_names[p]: slot for p, slot in call.reads.items()},
                    "writes": {port_names[p]: slot for p, slot in call.writes.items()},
                    "prediction": call.prediction,
                }
                for call in self.calls
            ],
            "slots": [list(shape) for shape in self.slots],
        }


def plan_program(subnet: SubNet, batch: int) -> Program:
    """Unroll `subnet` for `batch` images per prompt."""
    unrolled = unroll(subnet)
    topology = subnet.topology
    last_read = _last_reads(unrolled)
    slot_of, slots = _assign_slots(unrolled, last_read, batch)
    origins = tuple(unrolled.values[row[topology.output]].step for row in unrolled.effective)
    predictions = sorted(set(origins))
    signatures: dict[Signature, int] = {}
    calls = []
    for step in unrolled.calls:
        reads = _cache_reads(unrolled, step)
        writes = {
            unrolled.values[v].target: slot_of[v]
            for v in sorted(last_read)
            if unrolled.values[v].step == step
        }
        signature = Signature(
            computes=tuple(sorted(unrolled.computed[step])),
            reads=tuple(sorted(reads)),
            writes=tuple(sorted(writes)),
            predicts=topology.output in unrolled.computed[step],
        )
        calls.append(
            Call(
                step=step,
                timestep=subnet.timesteps[step],
                signature=signatures.setdefault(signature, len(signatures)),
                reads={port: slot_of[v] for port, v in sorted(reads.items())},
                writes=dict(sorted(writes.items())),
                prediction=predictions.index(step) if signature.predicts else None,
            )
        )
    return Program(
        signatures=tuple(signatures),
        calls=tuple(calls),
        slots=slots,
        origins=origins,
    )


def port_names(topology: Topology) -> list[str]:
    """A readable name for every port: the block, and which of its tensors."""
    return [f"{topology.blocks[port.block]}:{port.index}" for port in topology.ports]


def _cache_reads(unrolled: Unrolled, step: int) -> dict[int, int]:
    """Ports that the calls of `step` read from earlier steps, with the value each has."""
    found = {}
    for target in unrolled.computed[step]:
        for number in unrolled.values[unrolled.effective[step][target]].reads:
            value = unrolled.values[number]
            if value.step < step:
                found[value.target] = number
    return found


def _last_reads(unrolled: Unrolled) -> dict[int, int]:
    """For each value that a later step reads, the last such step."""
    found: dict[int, int] = {}
    for number in sorted(unrolled.live, key=lambda v: unrolled.values[v].step):
        value = unrolled.values[number]
        for read in value.reads:
            if unrolled.values[read].step < value.step:
                found[read] = max(found.get(read, 0), value.step)
    return found


def _assign_slots(
    unrolled: Unrolled, last_read: dict[int, int], batch: int
) -> tuple[dict[int, int], tuple[tuple[int, ...], ...]]:
    """A buffer for every cached value; a buffer is free again after the last call that reads it."""
    slot_of: dict[int, int] = {}
    slots: list[tuple[int, ...]] = []
    free: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
    expiring: defaultdict[int, list[int]] = defaultdict(list)
    for step in unrolled.calls:
        for number in sorted(v for v in last_read if unrolled.values[v].step == step):
            rows, *rest = unrolled.topology.ports[unrolled.values[number].target].shape
            shape = (rows * batch, *rest)
            if not free[shape]:
                free[shape].append(len(slots))
                slots.append(shape)
            slot_of[number] = free[shape].pop()
            expiring[last_read[number]].append(number)
        for number in expiring[step]:
            free[slots[slot_of[number]]].append(slot_of[number])
    return slot_of, tuple(slots)
