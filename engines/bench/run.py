"""Rounds over all rows, each row in its own process."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from engines.base import EngineOptions, make_engine
from engines.bench import worker
from engines.bench.contenders import contenders, deepcache_setting
from engines.bench.full import full_bundle
from engines.bench.records import Against, Bench, BenchRow, Contender, ContenderKind, Sample
from engines.errors import EngineError
from engines.machine import describe
from search.core.liveness import unroll
from search.core.program import plan_program
from search.core.versions import environment, installed

T = TypeVar("T")

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from engines.memory import Memory
    from exporter.bundle import Bundle

    Report = Callable[..., None]

ABSENT = "not installed; pip install DeepCache"
ERRORS = ("error_float", "error_refitted", "drift")
"""Of those that a quantisation plan has."""
NOTE = 200
"""Characters of it."""
PACKAGES = ("stepcarve", "torch", "diffusers", "numpy")


@dataclass(frozen=True)
class BenchSettings:
    """What to compare, and how often.

    Attributes:
        engines: names; each makes a row for the full sampler and one for the SubNet.
        device: where everything runs.
        against: what else.
        full: a bundle of the full sampler that is there already, or None to export one.
        interval: of full steps, for the DeepCache package; None is what the SubNet does.
        branch: likewise.
        repeats: rounds that count.
        warmup: rounds before them.
        threads: of PyTorch and of the engines; None leaves them as many as they take.
    """

    engines: tuple[str, ...] = ("onnxruntime",)
    device: str = "cpu"
    against: tuple[Against, ...] = (Against.EAGER, Against.DEEPCACHE)
    full: Path | None = None
    interval: int | None = None
    branch: int | None = None
    repeats: int = 5
    warmup: int = 1
    threads: int | None = None

    def __post_init__(self) -> None:
        """Refuse settings that measure nothing."""
        for name in ("repeats", "warmup"):
            if getattr(self, name) < 1:
                msg = f"--{name} is {getattr(self, name)}; give 1 or more"
                raise EngineError(msg)
        if not self.engines:
            msg = "no engine is named; give one or more with --engine, as in onnxruntime,openvino"
            raise EngineError(msg)


def bench(
    bundle: Bundle,
    pipeline: Path,
    settings: BenchSettings,
    *,
    out: Path,
    report: Report = lambda _text, _share=None: None,
) -> Bench:
    """Run `bundle` and what it is compared with, side by side.

    Args:
        bundle: opened at the shape to measure.
        pipeline: directory of the pipeline it was exported from.
        settings: what to compare, and how often.
        out: where the bundle of the full sampler goes, as `full`, if none is given.
        report: called with a progress message and the completed fraction.

    Raises:
        EngineError: an engine cannot run the bundle, or the full sampler is not to be had.
        SearchError: the pipeline is not the one that the bundle was exported from.
    """
    threads = _threads(settings)
    for name in settings.engines:
        make_engine(name, settings.device, EngineOptions(threads=threads))
    full = full_bundle(bundle, pipeline, given=settings.full, folder=out / "full", report=report)
    setting = deepcache_setting(bundle.subnet, settings.interval, settings.branch)
    wanted = contenders(
        bundle,
        full,
        pipeline=pipeline.resolve(),
        loras=[each.file.resolve() for each in bundle.added],
        engines=settings.engines,
        device=settings.device,
        against=settings.against,
        setting=setting,
        threads=threads,
    )
    rows = in_turn(wanted, repeats=settings.repeats, warmup=settings.warmup, report=report)
    return _measurements(bundle, rows, settings)


def in_turn(
    wanted: Sequence[Contender], *, repeats: int, warmup: int, report: Report
) -> tuple[BenchRow, ...]:
    """Run every contender in every round; a comparison row that cannot run gets a note instead.

    Raises:
        EngineError: an engine cannot run.
    """
    with ExitStack() as stack:
        lanes = [Lane(each, stack) for each in wanted]
        for number, lane in enumerate(lanes):
            report(f"load {lane.contender.name}", number / len(lanes))
            lane.load()
        rounds = warmup + repeats
        for turn in range(rounds):
            for number, lane in enumerate(lanes):
                share = (turn + number / len(lanes)) / rounds
                kind = "warm-up" if turn < warmup else "round"
                count = turn if turn < warmup else turn - warmup
                report(f"{kind} {count + 1}: {lane.contender.name}", share)
                lane.run(counts=turn >= warmup)
        return tuple(lane.row() for lane in lanes)


class Lane:
    """The process of one contender, and its measurements."""

    def __init__(self, contender: Contender, stack: ExitStack) -> None:
        """Nothing is started yet; `stack` ends the process."""
        self.contender = contender
        self._pool = stack.enter_context(
            ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), worker.start)
        )
        self._note, self._load_seconds = "", 0.0
        self._memory: Memory | None = None
        self._samples: list[Sample] = []

    def load(self) -> None:
        """Start the process and open the contender in it."""
        if self.contender.kind is ContenderKind.DEEPCACHE and not installed("DeepCache"):
            self._note = ABSENT
            return
        self._load_seconds = self._ask(worker.load) or 0.0

    def run(self, *, counts: bool) -> None:
        """Run it once more; a warm-up run measures its memory."""
        if self._note:
            return
        if not counts:
            self._memory = self._ask(worker.warm_up)
        elif (sample := self._ask(worker.measure)) is not None:
            self._samples.append(sample)

    def row(self) -> BenchRow:
        """What was found."""
        if self._note:
            return BenchRow(self.contender, note=self._note)
        return BenchRow(self.contender, tuple(self._samples), self._memory, self._load_seconds)

    def _ask(self, what: Callable[[Contender], T]) -> T | None:
        """The process's answer; None, and a note, if it fails."""
        future = self._pool.submit(what, self.contender)
        error = future.exception()
        if error is None:
            return future.result()
        self._note = " ".join(str(error).split())[:NOTE] or type(error).__name__
        if isinstance(error, BrokenProcessPool):
            self._note = "its process was killed, probably because memory ran out"
        if self.contender.kind is ContenderKind.ENGINE:
            msg = f"the row {self.contender.name!r} cannot be measured: {self._note}"
            raise EngineError(msg) from error
        return None


def _measurements(bundle: Bundle, rows: tuple[BenchRow, ...], settings: BenchSettings) -> Bench:
    subnet = bundle.subnet
    program = plan_program(subnet, 1)
    macs = unroll(subnet).macs
    return Bench(
        bundle=bundle.path.name,
        subnet=subnet.method,
        shape=bundle.shape,
        dtype=bundle.dtype,
        macs_ratio=subnet.full_calls * subnet.topology.macs / sum(macs),
        steps=tuple(call.step for call in program.calls),
        macs=tuple(macs[call.step] / subnet.topology.macs for call in program.calls),
        graphs=tuple(call.signature for call in program.calls),
        rows=rows,
        warmup=settings.warmup,
        environment=_environment(settings),
        errors=_errors(bundle),
    )


def _errors(bundle: Bundle) -> dict[str, float]:
    """What `quantise` found on held-out pictures: errors to the full sampler."""
    origin = {} if bundle.plan is None else bundle.plan.origin
    return {name: float(origin[name]) for name in ERRORS if name in origin}


def _threads(settings: BenchSettings) -> int | None:
    """`--threads`, or else OMP_NUM_THREADS, which PyTorch obeys and engines do not."""
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if settings.threads is None and settings.device == "cpu" and threads.isdigit():
        return int(threads)
    return settings.threads


def _environment(settings: BenchSettings) -> dict[str, str]:
    packages = environment(PACKAGES)
    for engine in settings.engines:
        packages |= installed(engine.replace("-", "_"))
    if Against.DEEPCACHE in settings.against:
        packages |= installed("DeepCache")
    return {
        "machine": describe(settings.device),
        "threads": str(_threads(settings) or "each row's own choice"),
        **packages,
    }
