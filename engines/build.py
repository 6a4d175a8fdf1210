"""Building a bundle's graphs with an engine: the missing ones, estimates, and the build."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from engines.builder import PARTIAL, BuildJob, build_apart
from engines.built import earlier_records, is_built, read_record, record_of, source_of
from engines.kinds import engine_kind
from engines.runner import Runner
from engines.temporary import remove_stale
from exporter.bundle import WEIGHTS
from search.runs.parallel import Where, require_workers, run_jobs

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.table import Table

    from engines.base import Engine, Report
    from exporter.bundle import Bundle


@dataclass(frozen=True)
class Item:
    """One graph of a plan.

    Attributes:
        graph: its file.
        built: whether there is nothing to do.
        seconds: that building takes: as measured before, or an estimate.
        bytes: of what is built, likewise.
        measured: whether they were measured.
    """

    graph: str
    built: bool
    seconds: float
    bytes: int
    measured: bool


@dataclass(frozen=True)
class BuildPlan:
    """The builds that a bundle needs.

    Attributes:
        folder: where the built files lie; None for an engine that keeps none.
        items: all graphs, of all variants.
    """

    folder: Path | None
    items: tuple[Item, ...]

    @property
    def missing(self) -> tuple[Item, ...]:
        """Those that are not built, the longest first, so that processes end together."""
        left = (item for item in self.items if not item.built)
        return tuple(sorted(left, key=lambda item: -item.seconds))

    def seconds(self, workers: int) -> float:
        """Estimated seconds of the whole build with that many processes."""
        ends = [0.0] * workers
        for item in self.missing:
            ends[ends.index(min(ends))] += item.seconds
        return max(ends)

    @property
    def bytes(self) -> int:
        """That the missing files will take."""
        return sum(item.bytes for item in self.missing)


@dataclass(frozen=True)
class Build:
    """What a build has done.

    Attributes:
        plan: as it was before.
        seconds: it took.
        bytes: of all built files.
    """

    plan: BuildPlan
    seconds: float
    bytes: int


def plan_build(bundle: Bundle, engine: Engine, report: Report = lambda *_: None) -> BuildPlan:
    """What `engine` has still to build of all variants of a bundle; its files are checked.

    Raises:
        ExportError: a file is not what was exported.
    """
    graphs = _checked_graphs(bundle, report)
    if engine.suffix is None:
        return BuildPlan(None, tuple(Item(name, True, 0, 0, True) for name in graphs))
    scale = _scale(bundle, engine, graphs)
    items = []
    for number, name in enumerate(graphs):
        report("look for what is built", number / len(graphs))
        items.append(_item(bundle, engine, name, scale))
    return BuildPlan(record_of(bundle, engine, graphs[0]).parent, tuple(items))


def build_bundle(
    bundle: Bundle,
    engine: Engine,
    *,
    jobs: int = 1,
    where: Where = Where.LOCAL,
    plan: BuildPlan | None = None,
    report: Report = lambda *_: None,
) -> Build:
    """Build what is missing, each graph in a process of its own; what is done stays if it is stopped.

    Args:
        bundle: any variant of it.
        engine: one that each process can recreate from its name, device and options.
        jobs: processes at once.
        where: they run; the bundle must lie under the same path there.
        plan: of `plan_build`, if it was made before.
        report: called with a progress message.

    Raises:
        EngineError: a graph cannot be built; those before it stay.
    """
    require_workers(jobs)
    began = time.perf_counter()
    plan = plan_build(bundle, engine, report) if plan is None else plan
    if plan.folder is None or not plan.missing:
        return Build(plan, time.perf_counter() - began, _total(plan))
    remove_stale(plan.folder, PARTIAL)
    todo = [_job(bundle, engine, item) for item in plan.missing]
    alone = jobs == 1 and where is Where.LOCAL
    done = 0

    def within(text: str, share: float | None = None) -> None:
        report(text, (done + (share or 0)) / len(todo))

    function = partial(build_apart, report=within) if alone else build_apart
    report(f"build {len(todo)} graphs", 0.0)
    for number, _ in run_jobs(function, todo, workers=jobs, where=where):
        done += 1
        report(f"built {todo[number].graph.name}", done / len(todo))
    return Build(plan, time.perf_counter() - began, _total(plan))


def load_all(bundle: Bundle, engine: Engine, report: Report) -> float:
    """Load every graph of all variants, as an engine that keeps no built files does; the seconds."""
    began = time.perf_counter()
    for variant in bundle.variants():
        report(f"load graphs for {variant.shape}")
        Runner(variant, engine)
    return time.perf_counter() - began


def _checked_graphs(bundle: Bundle, report: Report) -> list[str]:
    """The graphs of all variants, each once, their files checked."""
    graphs: dict[str, None] = {}
    for variant in bundle.variants():
        graphs.update(dict.fromkeys(variant.models))
    for name in (WEIGHTS, *graphs):
        report(f"check {name}")
        bundle.file(name)
    return list(graphs)


def _job(bundle: Bundle, engine: Engine, item: Item) -> BuildJob:
    path = bundle.path.resolve()
    return BuildJob(
        engine=engine.name,
        device=engine.device,
        options=engine.options,
        graph=path / item.graph,
        suffix=engine.suffix or "",
        record=path / record_of(bundle, engine, item.graph).relative_to(bundle.path),
        source=source_of(bundle, engine, item.graph),
    )


def _item(bundle: Bundle, engine: Engine, graph: str, scale: float) -> Item:
    built = is_built(bundle, engine, graph)
    same = [
        record
        for record in earlier_records(bundle, engine.name, graph)
        if record.source.graph == bundle.files[graph]
    ]
    if same:
        return Item(graph, built, same[-1].seconds, same[-1].bytes, measured=True)
    seconds, size = _estimate(bundle, engine.name, graph)
    return Item(graph, built, seconds * scale, size, measured=False)


def _scale(bundle: Bundle, engine: Engine, graphs: Sequence[str]) -> float:
    """Ratio of measured to estimated seconds of earlier builds."""
    ratios = [
        record.seconds / _estimate(bundle, engine.name, graph)[0]
        for graph in graphs
        for record in earlier_records(bundle, engine.name, graph)
    ]
    return statistics.median(ratios) if ratios else 1.0


def _estimate(bundle: Bundle, engine: str, graph: str) -> tuple[float, int]:
    """Seconds and bytes, from the graph's nodes and the weights that it refers to."""
    import onnx
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    model = onnx.load(bundle.path / graph, load_external_data=False)
    tensors = filter(uses_external_data, model.graph.initializer)
    weights = sum(ExternalDataInfo(tensor).length or 0 for tensor in tensors)
    rates = engine_kind(engine).rates
    seconds = (
        rates.start + rates.per_node * len(model.graph.node) + rates.per_gigabyte * weights / 1e9
    )
    return seconds, int(rates.growth * weights) + model.ByteSize()


def plan_line(plan: BuildPlan, jobs: int) -> str:
    """What is missing, in figures."""
    return (
        f"to build: {len(plan.missing)} of {len(plan.items)} graphs, about "
        f"{plan.seconds(jobs):.0f} s and {plan.bytes / 1e6:.1f} MB"
    )


def plan_table(plan: BuildPlan) -> Table:
    """What is missing, a row per graph, for a terminal."""
    from rich.table import Table

    table = Table()
    for name in ("graph", "seconds", "MB", "from"):
        table.add_column(name, justify="left" if name in ("graph", "from") else "right")
    for item in plan.missing:
        basis = "an earlier build" if item.measured else "estimate"
        table.add_row(item.graph, f"{item.seconds:.0f}", f"{item.bytes / 1e6:.1f}", basis)
    return table


def _total(plan: BuildPlan) -> int:
    if plan.folder is None:
        return 0
    records = (
        read_record(plan.folder / f"{item.graph.removesuffix('.onnx')}.json") for item in plan.items
    )
    return sum(record.bytes for record in records if record is not None)
