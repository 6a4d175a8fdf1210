"""What the runner takes beside the engine's calls: `python -m benchmarks.overhead shapes-sd|sd15`.

Every call of a graph, be it of a step, the conditioner, the prologue or the decoder, is timed from outside;
what is left of a run, from the prompt to the pictures, is the runner's own: tokens, noise, sums, checks.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchmarks.record import write
from engines.base import make_engine
from engines.runner import Runner
from exporter.exporting import export
from search.methods.options import Options
from search.methods.registry import search
from search.model.opening import open_pipeline
from tests.pipelines import SHIPPED

if TYPE_CHECKING:
    from collections.abc import Callable

    from engines.base import Engine

METHODS = ("full", "deepcache")
PROMPT = "a large red cross left on a grey field"


@dataclass
class Clock:
    """Seconds spent in the calls of an engine."""

    seconds: float = 0.0
    calls: int = 0


@dataclass
class Clocked:
    """An engine, or a session, whose calls are timed; all else is its own."""

    inner: Any
    clock: Clock = field(default_factory=Clock)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def load(self, *args: Any, **kwargs: Any) -> Clocked:
        """See `Engine`."""
        return Clocked(self.inner.load(*args, **kwargs), self.clock)

    def bind(self, *args: Any, **kwargs: Any) -> Callable[[], None]:
        """See `Session`."""
        run, clock = self.inner.bind(*args, **kwargs), self.clock

        def timed() -> None:
            began = time.perf_counter()
            run()
            clock.seconds += time.perf_counter() - began
            clock.calls += 1

        return timed


def overhead(runner: Runner, clock: Clock, rounds: int) -> dict[str, Any]:
    """Medians over `rounds` runs, after one that does not count."""
    runner.run(PROMPT)
    totals, shares, own = [], [], []
    for seed in range(rounds):
        clock.seconds, clock.calls = 0.0, 0
        began = time.perf_counter()
        runner.run(PROMPT, seed=seed)
        total = time.perf_counter() - began
        totals.append(total)
        own.append(total - clock.seconds)
        shares.append((total - clock.seconds) / total)
    return {
        "engine_calls": clock.calls,
        "seconds": round(statistics.median(totals), 4),
        "runner_seconds": round(statistics.median(own), 5),
        "share": round(statistics.median(shares), 5),
        "largest_share": round(max(shares), 5),
    }


@click.command()
@click.argument("size", type=click.Choice(["shapes-sd", "sd15"]))
@click.option("--engine", "name", default="onnxruntime", show_default=True)
@click.option("--steps", default=50, show_default=True)
@click.option("--rounds", default=7, show_default=True)
def main(size: str, name: str, steps: int, rounds: int) -> None:
    """Measure the full sampler and DeepCache, and write results/overhead-SIZE-ENGINE.json."""
    from benchmarks import full_size

    engine: Engine = make_engine(name, "cpu")
    result: dict[str, Any] = {"engine": name, "steps": steps, "rounds": rounds}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        path = SHIPPED / size if size == "shapes-sd" else folder / "pipeline"
        if size == "sd15":
            full_size.sd15(path)
        opened = open_pipeline(path, weights=False)
        for method in METHODS:
            bundle = export(path, search(opened, method, Options(steps=steps)), folder / method)
            clocked = Clocked(engine)
            runner = Runner(bundle, clocked)
            result[method] = overhead(runner, clocked.clock, rounds)
            click.echo(f"{method}: {result[method]}")
    click.echo(write(f"overhead-{size}-{name}", result))


if __name__ == "__main__":
    main()
