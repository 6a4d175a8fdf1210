"""The loop unrolled into calls: what each computes, reads and writes, and which buffers hold it.

No ONNX and no torch: a pure function of the SubNet.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from search.core.actions import RECORDS
from search.core.liveness import Unrolled, unroll
from search.core.topology import PREDICTION, Target, TargetKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from search.core.sampler import SamplerTable
    from search.core.subnet import SubNet


COEFFICIENTS = ":coefficients"
"""Ends the name of the input of a step graph that takes the coefficients of a mix."""


@dataclass(frozen=True)
class Signature:
    """What makes two calls the same graph.

    Attributes:
        computes: targets of the topology that the call computes.
        reads: tensors of the topology that it reads from the cache.
        writes: tensors it computes and a later call reads; calls that differ only in these share a
            signature that writes them all.
        predicts: whether it computes a noise prediction.
    """

    computes: tuple[Target, ...]
    reads: tuple[Target, ...]
    writes: tuple[Target, ...]
    predicts: bool

    @property
    def group(self) -> int:
        """The group of steps whose prediction it computes; 0 if it computes none."""
        found = (-1 - t.port for t in self.computes if t.kind is TargetKind.PREDICTION)
        return next(found, 0)

    @property
    def mixes(self) -> tuple[Target, ...]:
        """The mixes it computes, in order."""
        found = (target for target in self.computes if target.kind is TargetKind.MIX)
        return tuple(sorted(found, key=lambda target: target.port))


@dataclass(frozen=True)
class Call:
    """One call of the denoiser.

    Attributes:
        step: of the SubNet.
        timestep: that the denoiser receives.
        signature: index into `Program.signatures`.
        reads: per tensor that is read, the slot that holds it.
        writes: per tensor that is written, the slot to write to; one that nobody reads goes to a slot
            that holds nothing during this call.
        prediction: number of the noise prediction it makes, or None.
        coefficients: per mix whose action leaves some to the cell, these.
    """

    step: int
    timestep: float
    signature: int
    reads: dict[Target, int]
    writes: dict[Target, int]
    prediction: int | None
    coefficients: dict[Target, tuple[float, ...]]


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

    def split(self, span_of: Callable[[int], int]) -> Program:
        """With signatures of their own for calls in different spans of steps, in order of their calls."""
        pairs = [(span_of(call.step), call.signature) for call in self.calls]
        apart = sorted(set(pairs))
        return replace(
            self,
            signatures=tuple(self.signatures[signature] for _, signature in apart),
            calls=tuple(
                replace(call, signature=apart.index(pair))
                for call, pair in zip(self.calls, pairs, strict=True)
            ),
        )

    @property
    def timesteps(self) -> tuple[float, ...]:
        """Those of the calls, each once."""
        return distinct(call.timestep for call in self.calls)

    def reduce(self, table: SamplerTable) -> SamplerTable:
        """The full sampler's table, one row per step, as one row per call of this program."""
        return table.merge(self.origins, [call.step for call in self.calls])

    @property
    def bases(self) -> frozenset[int]:
        """The ports whose bases some call computes."""
        computed = {target for signature in self.signatures for target in signature.computes}
        return frozenset(target.base for target in computed if target.base >= 0)

    def to_json(self, name: Callable[[Target], str]) -> dict[str, Any]:
        """As plain JSON values, with tensors by name."""
        return {
            "calls": [
                {
                    "step": call.step,
                    "timestep": call.timestep,
                    "graph": call.signature,
                    "reads": {name(t): slot for t, slot in call.reads.items()},
                    "writes": {name(t): slot for t, slot in call.writes.items()},
                    "prediction": call.prediction,
                    "coefficients": {
                        f"{name(t)}{COEFFICIENTS}": list(w) for t, w in call.coefficients.items()
                    },
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
    origins = tuple(unrolled.values[row[PREDICTION]].step for row in unrolled.effective)
    predictions = sorted(set(origins))
    signature_of = _signatures(unrolled)
    signatures = list(dict.fromkeys(signature_of.values()))
    buffers = _assign_slots(unrolled, signature_of, batch)
    return Program(
        signatures=tuple(signatures),
        calls=tuple(
            Call(
                step=step,
                timestep=subnet.timesteps[step],
                signature=signatures.index(signature),
                reads={
                    tensor: buffers.slot_of[unrolled.cache_reads[step][tensor]]
                    for tensor in signature.reads
                },
                writes=buffers.writes[step],
                prediction=predictions.index(step) if signature.predicts else None,
                coefficients=_coefficients(unrolled, step),
            )
            for step, signature in signature_of.items()
        ),
        slots=tuple(buffers.shapes),
        origins=origins,
        alive=_alive(unrolled, batch),
    )


def _signatures(unrolled: Unrolled) -> dict[int, Signature]:
    """The signature of each step that makes a call.

    Calls that run the same operations on the same reads are one graph. It writes what any of them
    has to write, residuals included: these cost nothing but the subtraction.
    """
    alike: defaultdict[tuple[object, ...], list[int]] = defaultdict(list)
    for step in unrolled.calls:
        emitted = {t for t in unrolled.computed[step] if t.kind is not TargetKind.RESIDUAL}
        reads = frozenset(unrolled.cache_reads[step])
        alike[frozenset(emitted), reads, frozenset(unrolled.segments[step])].append(step)
    found: dict[int, Signature] = {}
    for steps in alike.values():
        computes = {target for step in steps for target in unrolled.computed[step]}
        writes = {tensor for step in steps for tensor in _kept(unrolled, step)}
        signature = Signature(
            computes=_ordered(computes),
            reads=_ordered(unrolled.cache_reads[steps[0]]),
            writes=_ordered(writes),
            predicts=any(target.kind is TargetKind.PREDICTION for target in computes),
        )
        found.update(dict.fromkeys(steps, signature))
    return {step: found[step] for step in unrolled.calls}


def _ordered(targets: Iterable[Target]) -> tuple[Target, ...]:
    return tuple(sorted(targets, key=lambda each: (each.port, each.kind, each.base)))


def _coefficients(unrolled: Unrolled, step: int) -> dict[Target, tuple[float, ...]]:
    """Per mix of `step` whose action leaves coefficients to the cell, these."""
    found = {}
    for value in (unrolled.values[number] for number in unrolled.made[step]):
        if value.target.action is not None and (free := RECORDS[value.target.action].free):
            weights = dict(value.weights)
            found[value.target] = tuple(weights[source] for source in free)
    return {target: found[target] for target in _ordered(found)}


def _kept(unrolled: Unrolled, step: int) -> dict[Target, int]:
    """Tensors of `step` that a later step reads, with the value each has."""
    return {t: n for t, n in unrolled.written(step).items() if n in unrolled.last_reads}


def _alive(unrolled: Unrolled, batch: int) -> tuple[int, ...]:
    """Per step, elements of the values that were made until then and are read after it."""
    topology, found = unrolled.topology, [0] * len(unrolled.effective)
    for number, last in unrolled.last_reads.items():
        value = unrolled.values[number]
        for step in range(value.step, last):
            found[step] += batch * math.prod(topology.shape(value.tensor))
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
        self.writes: dict[int, dict[Target, int]] = {}
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


def _assign_slots(unrolled: Unrolled, signature_of: dict[int, Signature], batch: int) -> _Buffers:
    """A buffer for every tensor that is written.

    It is free again after the last call that reads it: after its own call if none does.
    """
    buffers = _Buffers()
    expiring: defaultdict[int, list[int]] = defaultdict(list)
    for step, signature in signature_of.items():
        kept = _kept(unrolled, step)
        writes = buffers.writes[step] = {}
        for tensor in signature.writes:
            rows, *rest = unrolled.topology.shape(tensor)
            writes[tensor] = buffers.take((rows * batch, *rest))
            until = unrolled.last_reads[kept[tensor]] if tensor in kept else step
            expiring[until].append(writes[tensor])
        buffers.slot_of |= {number: writes[tensor] for tensor, number in kept.items()}
        for slot in expiring[step]:
            buffers.release(slot)
    return buffers
