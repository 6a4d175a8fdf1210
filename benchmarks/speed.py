"""Seconds per picture of every method, side by side: `python -m benchmarks.speed`.

All variants are run in turn, round after round, so that what else the machine does hits them alike; the
figures are medians, and ratios to the full sampler on the same engine.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import onnxruntime

from benchmarks.record import write
from engines.onnxruntime import OnnxRuntime, OnnxRuntimeSession
from engines.runner import Runner
from exporter.exporting import export
from search.core.summary import summarise
from search.methods.options import Options
from search.methods.registry import search
from search.model.family import Request
from search.model.opening import open_pipeline
from tests.pipelines import SHIPPED

if TYPE_CHECKING:
    from collections.abc import Callable

GUIDANCE = 4.0
METHODS = {
    "full": ("full", Options(guidance=GUIDANCE)),
    "deepcache 2": ("deepcache", Options(guidance=GUIDANCE, interval=2)),
    "deepcache 5": ("deepcache", Options(guidance=GUIDANCE, interval=5)),
    "deepcache 10": ("deepcache", Options(guidance=GUIDANCE, interval=10)),
    "fewer steps, 14": ("fewer-steps", Options(guidance=GUIDANCE, keep=0.28)),
}


class Prepacking(OnnxRuntime):
    """ONNX Runtime with its defaults: every session keeps private, rearranged weights."""

    def load(self, graph: Path, built: Path | None = None) -> OnnxRuntimeSession:
        """Load with all optimisations."""
        del built
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(graph, options, providers=[self.provider])
        return OnnxRuntimeSession(session, graph)


def resident_mb() -> float:
    """Memory of this process that is its own, in MB (what is mapped from files is not counted)."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    return float("nan")


@click.command()
@click.option("--rounds", default=7, show_default=True)
def main(rounds: int) -> None:
    """Measure shapes-sd on ONNX Runtime and in PyTorch and write results/speed.json."""
    path, prompt = SHIPPED / "shapes-sd", "a large red cross left on a grey field"
    opened = open_pipeline(path)
    variants: dict[str, Callable[[], float]] = {}
    facts: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, (method, options)) in enumerate(METHODS.items()):
            subnet = search(opened, method, options)
            bundle = export(path, subnet, Path(folder) / str(number))
            summary = summarise(subnet)
            for label, engine in {
                "shared": OnnxRuntime("cpu"),
                "private": Prepacking("cpu"),
            }.items():
                before = resident_mb()
                runner = Runner(bundle, engine)
                key = f"{name}, onnxruntime, {label} weights"
                facts[key] = {
                    "calls": summary["calls"],
                    "keep": summary["keep"],
                    "memory_mb": round(resident_mb() - before, 1),
                }

                def picture(runner: Runner = runner) -> float:
                    return sum(runner.run(prompt).seconds.values())

                variants[key] = picture

        def by_torch() -> float:
            began = time.perf_counter()
            opened.family.call(opened.pipe, Request((prompt,), 50, GUIDANCE), None)
            return time.perf_counter() - began

        variants["full, diffusers"] = by_torch
        facts["full, diffusers"] = {"calls": 50, "keep": 1.0}
        seconds: dict[str, list[float]] = {name: [] for name in variants}
        for _ in range(rounds + 1):
            for name, run in variants.items():
                seconds[name].append(run())
    rows = {}
    full = statistics.median(seconds["full, onnxruntime, shared weights"][1:])
    for name, times in seconds.items():
        median = statistics.median(times[1:])
        rows[name] = {
            **facts[name],
            "seconds": round(median, 4),
            "speedup": round(full / median, 2),
        }
        click.echo(f"{name:45} {median:7.3f} s  {full / median:5.2f} x")
    click.echo(write("speed", {"rounds": rounds, "rows": rows}))


if __name__ == "__main__":
    main()
