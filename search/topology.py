"""The denoiser as a graph of blocks: which block reads which, and what each piece costs. Pure data."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any


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
class Segment:
    """The operations that exactly the same targets need.

    Attributes:
        targets: the targets (ports, or the output) whose computation contains these operations.
        macs: multiply-accumulates of one call for one sample.
        params: weights these operations read.
        units: names of the modules these operations belong to.
        attention: how many of the MACs are the products of attention, queries with keys and weights
            with values; None if the file it was read from does not say.
    """

    targets: frozenset[int]
    macs: int
    params: int
    units: frozenset[str]
    attention: int | None = None


@dataclass(frozen=True)
class Topology:
    """Blocks, the tensors they emit and how these depend on each other, read off one trace.

    A *target* is something a call can compute: target `i` is port `i`, and the last target is the
    noise prediction. Ports stand in the order of computation, so a target reads only lower ones.

    Attributes:
        blocks: block names in order of execution.
        ports: every tensor the blocks emit.
        reads: per target, the ports its computation reads, with no other port in between.
        varies: per target, whether its computation reads the latents or the timestep.
        segments: a partition of all operations; what a set of targets costs is the sum over the
            segments that any of them needs.
    """

    blocks: tuple[str, ...]
    ports: tuple[Port, ...]
    reads: tuple[frozenset[int], ...]
    varies: tuple[bool, ...]
    segments: tuple[Segment, ...]

    def __post_init__(self) -> None:
        """Check that all numbers refer to what is there; a wrong one is a `ValueError`."""
        targets = len(self.ports) + 1
        if not len(self.reads) == len(self.varies) == targets:
            msg = (
                f"the topology, {len(self.reads)} and {len(self.varies)} rows for {targets} targets"
            )
            raise ValueError(msg)
        if any(not 0 <= port.block < len(self.blocks) for port in self.ports):
            msg = "the topology, in which a port belongs to no block"
            raise ValueError(msg)
        if any(not 0 <= r < t for t, reads in enumerate(self.reads) for r in reads):
            msg = "the topology, in which a target reads a later one"
            raise ValueError(msg)
        if any(not 0 <= t < targets for segment in self.segments for t in segment.targets):
            msg = "the topology, in which a segment belongs to no target"
            raise ValueError(msg)

    @property
    def output(self) -> int:
        """The target that is the noise prediction."""
        return len(self.ports)

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates of one full call for one sample, attention products included."""
        return sum(segment.macs for segment in self.segments)

    @cached_property
    def params(self) -> int:
        """Weights of the whole denoiser that any computation reads."""
        return sum(segment.params for segment in self.segments)

    @cached_property
    def ports_of(self) -> tuple[tuple[int, ...], ...]:
        """Per block, the indices of its ports."""
        found: list[list[int]] = [[] for _ in self.blocks]
        for i, port in enumerate(self.ports):
            found[port.block].append(i)
        return tuple(map(tuple, found))

    def needed(self, targets: frozenset[int]) -> tuple[Segment, ...]:
        """The segments that computing `targets` from their ports takes."""
        return tuple(s for s in self.segments if not s.targets.isdisjoint(targets))

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; see docs/formats.md."""
        units = sorted({unit for segment in self.segments for unit in segment.units})
        number = {unit: i for i, unit in enumerate(units)}
        return {
            "blocks": list(self.blocks),
            "ports": [[p.block, p.index, list(p.shape)] for p in self.ports],
            "reads": [sorted(r) for r in self.reads],
            "varies": list(self.varies),
            "units": units,
            "segments": [
                [sorted(s.targets), s.macs, s.params, sorted(number[u] for u in s.units)]
                for s in self.segments
            ],
            "attention": [s.attention for s in self.segments],
        }

    @staticmethod
    def from_json(data: dict[str, Any]) -> Topology:
        """Read what `to_json` wrote."""
        units, segments = data["units"], data["segments"]
        return Topology(
            blocks=tuple(data["blocks"]),
            ports=tuple(Port(block, index, tuple(shape)) for block, index, shape in data["ports"]),
            reads=tuple(frozenset(r) for r in data["reads"]),
            varies=tuple(data["varies"]),
            segments=tuple(
                Segment(
                    frozenset(targets),
                    macs,
                    params,
                    frozenset(units[i] for i in numbers),
                    attention,
                )
                for (targets, macs, params, numbers), attention in zip(
                    segments, data.get("attention", [None] * len(segments)), strict=True
                )
            ),
        )
