"""Engines beside PyTorch at the size of Stable Diffusion 1.5: `python -m benchmarks.engines`.

A U-Net of that size with random weights, 64x64 latents, guidance, float32. Each engine is measured twice, every
row in a process of its own and all of them in turn.

Calls: PyTorch, the DeepCache package on it, the engine's full run and its DeepCache run are broken off after a few
calls, so that one round takes no longer than a run; a loop of PyTorch is then reckoned from its calls.
Loops: the engine's full run, DeepCache and two random tables, one with a graph for nearly every step and one with
ten graphs, each from the prompt to the pictures. A table whose graphs an engine has no memory for is left out.
"""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import onnx_ir as ir
import psutil

from benchmarks.record import write
from engines.base import make_engine
from engines.bench.records import BenchRow, Contender, ContenderKind
from engines.bench.run import in_turn
from engines.kinds import engine_names
from exporter.bundle import Bundle
from exporter.shape import Shape
from search.core.actions import Action
from search.core.program import plan_program
from search.core.table import keep_of, with_actions
from search.methods.options import Options, names_of
from search.methods.registry import search
from search.model.opening import open_pipeline

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from search.core.subnet import SubNet
    from search.model.pipeline import Pipeline

INTERVAL = 5
KEEP = 0.3
GRAPHS = 10
PERIOD = 4
"""Steps after which the rows of the random table with few graphs repeat."""
ATTEMPTS = 5000
NEAR = 0.02
ROOM = 0.8
"""Share of the free memory that graphs may fill."""
METHODS = ("full", "deepcache", "random", "random, ten graphs")
COPYING = ("openvino",)
"""Engines of which every graph keeps its own weights: what does not fit into memory is left out."""
FULL_STEP, OF_MACS_RATIO, PACKAGE = 1.3, 0.9, 1.5
"""Targets: times faster than PyTorch, share of the MACs ratio, times faster than the package."""


@dataclass(frozen=True)
class Bundles:
    """One per method, in a folder.

    Attributes:
        folder: holds them, each under the method's name, beside the pipeline.
        keep: of the full sampler's MACs, per method.
        shape: of the pictures.
    """

    folder: Path
    keep: dict[str, float]
    shape: Shape

    def bundle(self, method: str) -> Path:
        """Where that of a method lies."""
        return self.folder / method.replace(", ", "-").replace(" ", "-")

    def contender(self, name: str, kind: ContenderKind, method: str, **more: Any) -> Contender:
        """A row for the bundle of a method."""
        return Contender(
            name=name,
            kind=kind,
            bundle=self.bundle(method),
            shape=self.shape,
            is_full=method == "full" and kind is not ContenderKind.DEEPCACHE,
            device="cpu",
            pipeline=self.folder / "pipeline",
            dtype="float32",
            **more,
        )


def export_all(folder: Path, size: str, steps: int, pixels: int) -> Bundles:
    """The pipeline and its bundles; what an earlier run left in `folder` is used again."""
    from benchmarks import full_size
    from exporter.exporting import export

    path = folder / "pipeline"
    if not path.exists():
        getattr(full_size, size)(path)
    opened = open_pipeline(path, weights=False)
    options = Options(steps=steps, height=pixels, width=pixels, keep=KEEP, interval=INTERVAL)
    made = Bundles(folder, {}, Shape(pixels, pixels, 1))
    for method in METHODS:
        subnet = few_graphs(opened, options) if "," in method else search(opened, method, options)
        if not made.bundle(method).exists():
            export(path, subnet, made.bundle(method), report=click.echo)
        made.keep[method] = keep_of(Bundle.open(made.bundle(method)).subnet)
    return made


def few_graphs(pipeline: Pipeline, options: Options) -> SubNet:
    """A random table that keeps about `KEEP` with no more than `GRAPHS` step graphs, as its rows repeat."""
    full = search(pipeline, "full", options)
    blocks = len(full.topology.blocks)
    for seed in range(ATTEMPTS):
        random = np.random.default_rng(seed)
        runs = random.random((PERIOD, blocks)) < random.uniform(0.4, 0.8)

        def action(step: int, block: int, runs: NDArray[np.bool_] = runs) -> Action:
            return Action.RUN if step == 0 or runs[step % PERIOD, block] else Action.REUSE

        found = with_actions(full, action, f"random, rows repeat after {PERIOD}, seed {seed}")
        near = abs(keep_of(found) - KEEP) <= NEAR
        if near and len(plan_program(found, 1).signatures) <= GRAPHS:
            return found
    msg = f"no random table keeps {KEEP} with {GRAPHS} graphs; allow more graphs"
    raise click.ClickException(msg)


def weights_of(bundle: Path) -> int:
    """Bytes of the weights of all step graphs, each graph with its own."""
    return sum(
        value.const_value.nbytes
        for file in bundle.glob("step_*.onnx")
        for value in ir.load(file).graph.initializers.values()
        if value.const_value is not None
    )


def fitting(made: Bundles, engine: str) -> list[str]:
    """The methods whose bundles can be loaded on `engine` side by side, in order."""
    if engine not in COPYING:
        return list(METHODS)
    room, kept = ROOM * psutil.virtual_memory().available, []
    for method in METHODS:
        room -= weights_of(made.bundle(method))
        if room > 0:
            kept.append(method)
        else:
            room += weights_of(made.bundle(method))
            click.echo(f"{engine}: no memory for {method}, whose graphs keep their own weights")
    return kept


def calls(made: Bundles, engine: str, rounds: int, steps: int) -> dict[str, Any]:
    """Seconds of single calls, and what follows for a loop of `steps`."""
    enough = {"calls": INTERVAL + 2}
    rows = in_turn(
        [
            made.contender("PyTorch", ContenderKind.EAGER, "full", calls=3),
            made.contender(engine, ContenderKind.ENGINE, "full", engine=engine, calls=3),
            made.contender(
                "DeepCache package", ContenderKind.DEEPCACHE, "full", interval=INTERVAL, **enough
            ),
            made.contender(
                f"{engine} + DeepCache", ContenderKind.ENGINE, "deepcache", engine=engine, **enough
            ),
        ],
        repeats=rounds,
        warmup=1,
        report=_tell,
    )
    _require_all(rows)
    eager, full, package, deepcache = rows
    shallow = [number for number in range(1, INTERVAL + 2) if number % INTERVAL]
    seconds = {
        "PyTorch, full": _call(eager, [1, 2]),
        f"{engine}, full": _call(full, [1, 2]),
        "DeepCache package, full": _call(package, [INTERVAL]),
        "DeepCache package, shallow": _call(package, shallow),
        f"{engine} + DeepCache, full": _call(deepcache, [INTERVAL]),
        f"{engine} + DeepCache, shallow": _call(deepcache, shallow),
    }
    times = list(seconds.values())
    deep = -(-steps // INTERVAL)
    loops = {
        "PyTorch": steps * times[0],
        "DeepCache package": deep * times[2] + (steps - deep) * times[3],
        f"{engine} + DeepCache": deep * times[4] + (steps - deep) * times[5],
    }
    reckoned = list(loops.values())
    return {
        "call_seconds": _rounded(seconds),
        "reckoned_loop_seconds": _rounded(loops),
        "full_step_over_pytorch": round(times[0] / times[1], 3),
        "deepcache_over_package": round(reckoned[1] / reckoned[2], 3),
        "memory_mb": _memory(rows),
    }


def loops(made: Bundles, engine: str, rounds: int, warmup: int) -> dict[str, Any]:
    """Seconds of whole runs, and how much of the MACs ratio they reach."""
    fit = fitting(made, engine)
    rows = in_turn(
        [made.contender(method, ContenderKind.ENGINE, method, engine=engine) for method in fit],
        repeats=rounds,
        warmup=warmup,
        report=_tell,
    )
    full, *others = rows
    reached = {}
    for row in others:
        speedup = row.speedup_over(full).median
        ratio = 1 / made.keep[row.contender.name]
        reached[row.contender.name] = {
            "speedup": round(speedup, 3),
            "macs_ratio": round(ratio, 3),
            "share": round(speedup / ratio, 3),
        }
    return {
        "seconds": {row.contender.name: asdict(row.total) for row in rows},
        "loop_seconds": {row.contender.name: asdict(row.loop) for row in rows},
        "load_seconds": _rounded({row.contender.name: row.load_seconds for row in rows}),
        "of_macs_ratio": reached,
        "memory_mb": _memory(rows),
        "left_out": [method for method in METHODS if method not in fit],
    }


def _call(row: BenchRow, numbers: list[int]) -> float:
    """Median seconds of these calls in all rounds."""
    return statistics.median(sample.calls[n] for sample in row.samples for n in numbers)


def _memory(rows: tuple[BenchRow, ...]) -> dict[str, dict[str, int]]:
    return {
        row.contender.name: {name: each // 10**6 for name, each in asdict(row.memory).items()}
        for row in rows
        if row.memory is not None
    }


def _rounded(seconds: dict[str, float]) -> dict[str, float]:
    return {name: round(each, 4) for name, each in seconds.items()}


def _require_all(rows: tuple[BenchRow, ...]) -> None:
    for row in rows:
        if row.note:
            msg = f"{row.contender.name}: {row.note}"
            raise click.ClickException(msg)


def _tell(text: str, share: float | None = None) -> None:
    done = "" if share is None else f" ({share:.0%})"
    click.echo(f"  {text}{done}")


def _verdict(result: dict[str, Any]) -> list[str]:
    """Targets and measurements, per engine."""
    lines = []
    for engine, found in result.items():
        calls = found["calls"]
        lines += [
            f"{engine}: full step {calls['full_step_over_pytorch']:.2f} x PyTorch (target {FULL_STEP})",
            f"{engine}: DeepCache {calls['deepcache_over_package']:.2f} x the package (target {PACKAGE})",
        ]
        for method, each in found.get("loops", {}).get("of_macs_ratio", {}).items():
            lines.append(
                f"{engine}: {method} {each['speedup']:.2f} x its full run, {each['share']:.0%} of the "
                f"MACs ratio {each['macs_ratio']:.2f} (target {OF_MACS_RATIO:.0%})"
            )
    return lines


@click.command()
@click.argument("size", type=click.Choice(["sd15"]))
@click.option("--engine", "engines", default="openvino,onnxruntime", show_default=True)
@click.option("--steps", default=50, show_default=True)
@click.option("--pixels", default=512, show_default=True, help="Edge of the picture.")
@click.option("--call-rounds", default=5, show_default=True, help="Of the calls.")
@click.option("--rounds", default=1, show_default=True, help="Of the loops; 0 leaves them out.")
@click.option("--warmup", default=1, show_default=True, help="Of the loops.")
@click.option("--folder", type=click.Path(path_type=Path), help="Keep pipeline and bundles here.")
@click.option("--try", "is_trial", is_flag=True, help="Nothing is recorded.")
def main(
    size: str,
    engines: str,
    steps: int,
    pixels: int,
    call_rounds: int,
    rounds: int,
    warmup: int,
    folder: Path | None,
    is_trial: bool,
) -> None:
    """Measure every engine and write results/engines-SIZE.json."""
    for name in names_of(engines, engine_names()):
        make_engine(name, "cpu")
    with tempfile.TemporaryDirectory() as temporary:
        made = export_all(folder or Path(temporary), size, steps, pixels)
        result: dict[str, Any] = {}
        settings = {"steps": steps, "pixels": pixels, "call_rounds": call_rounds}
        settings |= {"rounds": rounds, "warmup": warmup}
        for engine in names_of(engines, engine_names()):
            result[engine] = {"calls": calls(made, engine, call_rounds, steps)}
            if rounds:
                result[engine]["loops"] = loops(made, engine, rounds, warmup)
            record = {**settings, "keep": made.keep, "engines": result}
            click.echo(record if is_trial else write(f"engines-{size}", record))
    click.echo("\n".join(_verdict(result)))


if __name__ == "__main__":
    main()
