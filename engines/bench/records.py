"""Records of a comparison: its rows and their figures."""

from __future__ import annotations

import enum
import statistics
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from engines.memory import Memory
    from exporter.shape import Shape

SCHEMA = 1


class Against(enum.StrEnum):
    """What a bundle is compared with, beside the engines themselves."""

    EAGER = "eager"
    """PyTorch: diffusers' own pipeline, and the same gated by the SubNet."""
    DEEPCACHE = "deepcache"
    """The DeepCache package on diffusers' own pipeline."""
    COMPILE = "compile"
    """diffusers' own pipeline with its denoiser compiled by torch.compile."""


class ContenderKind(enum.StrEnum):
    """What runs a row."""

    EAGER = "eager"
    REFERENCE = "reference"
    DEEPCACHE = "deepcache"
    COMPILE = "compile"
    ENGINE = "engine"


@dataclass(frozen=True)
class Contender:
    """One row: all that its process needs to run it.

    Attributes:
        name: for people.
        kind: what runs it.
        bundle: its SubNet, prompt inputs and shape; an engine runs its graphs.
        shape: of the pictures: see `Bundle.open`.
        is_full: whether every block runs at every step.
        device: where it runs.
        pipeline: directory of the pipeline; an engine does not look at it.
        loras: files that were fused into it and may not be where they were; likewise.
        dtype: that the denoiser computes in: PyTorch's pipelines are made so, an engine's bundle is.
        precision: that it multiplies in: the scheme of its quantisation, or else `dtype`.
        engine: its name; empty for PyTorch.
        interval: of full steps, for the DeepCache package.
        branch: likewise.
        threads: that compute; None leaves PyTorch or the engine as many as it takes.
        calls: of the denoiser, after which a run is broken off; None makes pictures.
    """

    name: str
    kind: ContenderKind
    bundle: Path
    shape: Shape
    is_full: bool
    device: str
    pipeline: Path
    dtype: str
    engine: str = ""
    interval: int = 0
    branch: int = 0
    threads: int | None = None
    calls: int | None = None
    loras: tuple[Path, ...] = ()
    precision: str = ""


@dataclass(frozen=True)
class Sample:
    """Seconds of one run.

    Attributes:
        total: from the prompt to the pictures.
        loop: of that, from the first call of the denoiser to the last.
        calls: of that, each call of the denoiser with the sampler's work before it.
    """

    total: float
    loop: float
    calls: tuple[float, ...]


@dataclass(frozen=True)
class Spread:
    """A median and its quartiles."""

    median: float
    low: float
    high: float

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        """Of one value or more."""
        if len(values) == 1:
            return Spread(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return Spread(median, low, high)


@dataclass(frozen=True)
class BenchRow:
    """What one contender took.

    Attributes:
        contender: who.
        samples: one per round; none if it could not run.
        memory: that its process holds while it runs; None if unknown.
        load_seconds: until it was ready.
        note: why it could not run; empty if it did.
    """

    contender: Contender
    samples: tuple[Sample, ...] = ()
    memory: Memory | None = None
    load_seconds: float = 0.0
    note: str = ""

    @property
    def total(self) -> Spread:
        """Seconds of a run."""
        return Spread.of([sample.total for sample in self.samples])

    @property
    def loop(self) -> Spread:
        """Seconds of its loop."""
        return Spread.of([sample.loop for sample in self.samples])

    @property
    def calls(self) -> tuple[float, ...]:
        """Median seconds of each call."""
        return tuple(
            statistics.median(each)
            for each in zip(*(sample.calls for sample in self.samples), strict=True)
        )

    def speedup_over(self, other: BenchRow) -> Spread:
        """Of the loop: how many times faster than `other`, round by round.

        What else the machine does hits both of a round alike.
        """
        pairs = zip(other.samples, self.samples, strict=True)
        return Spread.of([theirs.loop / mine.loop for theirs, mine in pairs])


@dataclass(frozen=True)
class Bench:
    """One run, side by side.

    Attributes:
        bundle: its name.
        subnet: method of its SubNet.
        shape: of the pictures.
        dtype: of the bundle.
        macs_ratio: MACs of the full sampler over those of the SubNet.
        steps: of the SubNet, one per call.
        macs: share of a full step's MACs, one per call.
        graphs: number of the step graph, one per call.
        rows: in the order in which they took turns.
        warmup: rounds that were thrown away.
        environment: machine and versions.
        errors: what its quantisation plan says of the errors that it makes; empty without a plan.
    """

    bundle: str
    subnet: str
    shape: Shape
    dtype: str
    macs_ratio: float
    steps: tuple[int, ...]
    macs: tuple[float, ...]
    graphs: tuple[int, ...]
    rows: tuple[BenchRow, ...]
    warmup: int
    environment: dict[str, str] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)

    @property
    def measured(self) -> tuple[BenchRow, ...]:
        """Rows that ran."""
        return tuple(row for row in self.rows if row.samples)

    @property
    def eager(self) -> BenchRow | None:
        """The row of diffusers' own pipeline."""
        return next(
            (row for row in self.measured if row.contender.kind is ContenderKind.EAGER), None
        )

    def full_of(self, row: BenchRow) -> BenchRow | None:
        """The full sampler's row on the engine of `row`."""
        mine = row.contender
        kind = ContenderKind.ENGINE if mine.engine else ContenderKind.EAGER
        for other in self.measured:
            theirs = other.contender
            if theirs.kind is kind and theirs.engine == mine.engine and theirs.is_full:
                return other
        return None

    def error(self, row: BenchRow) -> float | None:
        """Of the SubNet's final latents to the full sampler's, where a plan says so: rounded, or in floating point."""
        if not self.is_subnet(row):
            return None
        mine = row.contender
        is_rounded = mine.precision not in ("", mine.dtype)
        return self.errors.get("error_refitted" if is_rounded else "error_float")

    def is_subnet(self, row: BenchRow) -> bool:
        """Whether it runs the SubNet, call by call."""
        return not row.contender.is_full and row.contender.kind in (
            ContenderKind.ENGINE,
            ContenderKind.REFERENCE,
        )

    def reached(self, row: BenchRow) -> float | None:
        """Speedup over the same engine's full run, as a share of the ratio of the MACs."""
        full = self.full_of(row)
        if full is None or not self.is_subnet(row):
            return None
        return row.speedup_over(full).median / self.macs_ratio

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; see docs/formats.md."""
        return {
            "schema": SCHEMA,
            "kind": "stepcarve-bench",
            "bundle": self.bundle,
            "subnet": self.subnet,
            "shape": asdict(self.shape),
            "dtype": self.dtype,
            "errors": self.errors,
            "macs_ratio": self.macs_ratio,
            "rounds": max((len(row.samples) for row in self.rows), default=0),
            "warmup": self.warmup,
            "calls": [
                {"step": step, "graph": graph, "macs_share": share}
                for step, graph, share in zip(self.steps, self.graphs, self.macs, strict=True)
            ],
            "rows": [self._row(row) for row in self.rows],
            "environment": self.environment,
        }

    def _row(self, row: BenchRow) -> dict[str, Any]:
        mine = row.contender
        record: dict[str, Any] = {
            "name": mine.name,
            "kind": mine.kind,
            "engine": mine.engine,
            "device": mine.device,
            "dtype": mine.dtype,
            "precision": mine.precision or mine.dtype,
            "full": mine.is_full,
        }
        if not row.samples:
            return {**record, "note": row.note}
        eager, full = self.eager, self.full_of(row)
        return {
            **record,
            "load_seconds": row.load_seconds,
            "memory": None if row.memory is None else asdict(row.memory),
            "error": self.error(row),
            "seconds": asdict(row.total),
            "loop_seconds": asdict(row.loop),
            "call_seconds": list(row.calls),
            "speedup_over_eager": None if eager is None else asdict(row.speedup_over(eager)),
            "speedup_over_full": None if full is None else asdict(row.speedup_over(full)),
            "share_of_macs_ratio": self.reached(row),
            "samples": [{"seconds": s.total, "loop_seconds": s.loop} for s in row.samples],
        }
