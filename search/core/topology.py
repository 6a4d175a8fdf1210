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

    A *target* is something a call can compute: target `i` is port `i`, then comes the noise
    prediction, then two targets for each block in `deltas`: its *residual* (what it emits minus its
    base) and its *sum* (its base plus the residual, which is what DELTA emits in place of its port;
    SKIP emits the sum of its base and nothing: a sum for which no residual is read).
    The base of a block is what it would emit if it did nothing: its input, through the shortcut
    convolution where it has one. Ports stand in the order of computation, so a target reads only
    lower ones.

    A *tensor* is what may be cached: a port, or a residual under the number of its target.

    Attributes:
        blocks: block names in order of execution.
        ports: every tensor the blocks emit.
        reads: per target, the tensors its computation reads, with no other in between.
        varies: per target, whether its computation reads the latents or the timestep.
        segments: a partition of all operations; what a set of targets costs is the sum over the
            segments that any of them needs.
        deltas: the blocks that allow DELTA and SKIP, in order; each has a single port, of its base's
            shape.
    """

    blocks: tuple[str, ...]
    ports: tuple[Port, ...]
    reads: tuple[frozenset[int], ...]
    varies: tuple[bool, ...]
    segments: tuple[Segment, ...]
    deltas: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Check that all numbers refer to what is there; a wrong one is a `ValueError`."""
        targets = len(self.ports) + 1 + 2 * len(self.deltas)
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
        self._check_deltas()

    def _check_deltas(self) -> None:
        """Check that a block's base stands before its port, and that its sum reads its residual."""
        for block in self.deltas:
            ports = self.ports_of[block] if 0 <= block < len(self.blocks) else ()
            if len(ports) != 1:
                msg = f"the topology, in which block {block} allows DELTA without having one port"
                raise ValueError(msg)
            residual, total = self.residual(block), self.sum(block)
            base = self.reads[residual] - {ports[0]}
            if (
                self.reads[residual] != base | {ports[0]}
                or self.reads[total] != base | {residual}
                or max(base, default=-1) > ports[0]
            ):
                msg = (
                    f"the topology, in which {self.blocks[block]!r} has no residual that DELTA adds"
                )
                raise ValueError(msg)

    def has_blocks_of(self, traced: Topology) -> bool:
        """Whether it has the blocks of `traced`, which read one another as they do there.

        One that was read from a SubNet of schema 1 knows nothing of residuals, and has no use for them.
        """
        deltas = traced.deltas if self.deltas else ()
        reads = traced.reads[: len(self.reads)]
        return (self.blocks, self.reads, self.deltas) == (traced.blocks, reads, deltas)

    @property
    def output(self) -> int:
        """The target that is the noise prediction."""
        return len(self.ports)

    def residual(self, block: int) -> int:
        """The target, and the tensor, that is the residual of a block in `deltas`."""
        return self.output + 1 + 2 * self.deltas.index(block)

    def sum(self, block: int) -> int:
        """The target that is base plus residual of a block in `deltas`."""
        return self.residual(block) + 1

    def block(self, target: int) -> int | None:
        """The block whose tensor a target is; None for the noise prediction."""
        if target == self.output:
            return None
        if target < self.output:
            return self.ports[target].block
        return self.deltas[(target - self.output - 1) // 2]

    def is_residual(self, target: int) -> bool:
        """Whether a target is a residual."""
        return target > self.output and (target - self.output) % 2 == 1

    def is_sum(self, target: int) -> bool:
        """Whether a target is a base plus a residual."""
        return target > self.output and (target - self.output) % 2 == 0

    def added(self, total: int) -> int:
        """The residual that a sum adds to its base."""
        return total - 1

    def tensor(self, target: int) -> int:
        """The tensor that a target is: a sum stands for its block's port, anything else for itself."""
        return self._port(target) if self.is_sum(target) else target

    def shape(self, tensor: int) -> tuple[int, ...]:
        """Shape of a tensor at one image per prompt."""
        return self.ports[self._port(tensor)].shape

    @cached_property
    def tensor_names(self) -> dict[int, str]:
        """A readable name for every tensor: the block, and which of its tensors."""
        names = {i: f"{self.blocks[p.block]}:{p.index}" for i, p in enumerate(self.ports)}
        return names | {self.residual(b): f"{self.blocks[b]}:residual" for b in self.deltas}

    def _port(self, target: int) -> int:
        if target < self.output:
            return target
        return self.ports_of[self.deltas[(target - self.output - 1) // 2]][0]

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
            "deltas": list(self.deltas),
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
            deltas=tuple(data.get("deltas", ())),
        )
