"""Memory of a bundle with very many step graphs: `python -m benchmarks.loaded_memory`.

A U-Net of the size of Stable Diffusion 1.5 with random weights, 50 steps: the full sampler's one graph, DeepCache
whose branch changes until there are ten, and a random table with a graph for nearly every step. Each is loaded
and run once in a process of its own, which then tells what it holds: the most it owned, and the weights mapped
from the bundle's file, as far as they were touched and once however many sessions map them. With `--resident`,
the graphs are built first and no more of them than that are loaded at a time.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchmarks.record import write

if TYPE_CHECKING:
    from search.core.subnet import SubNet
    from search.methods.options import Options
    from search.model.pipeline import Pipeline

GRAPHS = 10
INTERVAL = 5
KEEP = 0.5
"""Of the random table."""


def rotating(pipeline: Pipeline, options: Options, graphs: int) -> SubNet:
    """DeepCache whose branch changes with every interval, over as many branches as make `graphs`."""
    from search.core.program import plan_program
    from search.methods.registry import search
    from search.methods.schedules import deepcache_branches

    made: list[SubNet] = []
    for branch in deepcache_branches(search(pipeline, "full", options).topology.blocks):
        made.append(search(pipeline, "deepcache", replace(options, branch=branch)))
        rows = [made[t // INTERVAL % len(made)].actions[t] for t in range(made[0].steps)]
        found = replace(made[0], actions=tuple(rows), method="deepcache, rotating")
        if len(plan_program(found, 1).signatures) >= graphs:
            return found
    msg = f"no table of these branches has {graphs} step graphs"
    raise click.ClickException(msg)


def export_all(
    folder: Path, pixels: int, channels: tuple[int, ...], names: tuple[str, ...]
) -> None:
    """A bundle per name, in the folder."""
    from benchmarks import full_size
    from exporter.exporting import export
    from search.methods.options import Options
    from search.methods.registry import search
    from search.model.opening import open_pipeline

    path = folder / "pipeline"
    full_size.sd15(path, channels)
    pipeline = open_pipeline(path, weights=False)
    options = Options(steps=50, height=pixels, width=pixels, keep=KEEP, interval=INTERVAL)
    for name in names:
        subnet = (
            rotating(pipeline, options, GRAPHS)
            if name == "rotating"
            else search(pipeline, name, options)
        )
        export(path, subnet, folder / name)


def measure(bundle: Path, engine: str, resident: int | None) -> dict[str, Any]:
    """Load and run once."""
    from engines.base import EngineOptions, make_engine
    from engines.memory import while_running
    from engines.runner import Runner
    from exporter.bundle import Bundle

    opened = Bundle.open(bundle)
    began = time.perf_counter()
    runner = Runner(opened, make_engine(engine, "cpu", EngineOptions(resident=resident)))
    loaded = time.perf_counter() - began
    began = time.process_time()
    held = while_running(lambda: runner.run("a small red circle left on a grey field", seed=0))
    if held is None:
        msg = "memory is measured on Linux only"
        raise click.ClickException(msg)
    return {
        "graphs": len(opened.graphs),
        "seconds_to_load": round(loaded, 1),
        "processor_seconds_of_a_run": round(time.process_time() - began, 1),
        "resident_mb": held.total >> 20,
        "own_mb": held.own >> 20,
    }


@click.command()
@click.option("--engine", default="onnxruntime", show_default=True)
@click.option("--pixels", default=256, show_default=True, help="Edge of the picture.")
@click.option(
    "--names", default="full,rotating,random", show_default=True, help="The full one is needed."
)
@click.option("--resident", type=int, help="Graphs that are loaded at a time.  [default: all]")
@click.option(
    "--channels", help="Of the levels of the U-Net, as in 160,320,640,640.  [default: SD-1.5's]"
)
@click.option("--bundle", type=click.Path(path_type=Path), hidden=True)
def main(
    engine: str,
    pixels: int,
    names: str,
    resident: int | None,
    channels: str | None,
    bundle: Path | None,
) -> None:
    """Compare them and write results/loaded-memory-ENGINE.json, with `-resident` in its name."""
    if bundle is not None:
        click.echo(json.dumps(measure(bundle, engine, resident)))
        return
    from benchmarks.full_size import SD15_CHANNELS

    levels = tuple(map(int, channels.split(","))) if channels else SD15_CHANNELS
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        export_all(folder, pixels, levels, tuple(names.split(",")))
        for each in names.split(","):
            found[each] = _apart(folder / each, engine, None)
            if resident is not None:
                build(folder / each, engine)
                found[f"{each}, {resident} resident"] = _apart(folder / each, engine, resident)

    for each in found.values():
        each["ratio"] = round(each["resident_mb"] / found["full"]["resident_mb"], 3)
    name = f"loaded-memory-{engine}{'' if resident is None else '-resident'}"
    click.echo(write(name, {"pixels": pixels, "channels": levels, **found}))


def build(bundle: Path, engine: str) -> None:
    """Build all graphs of a bundle."""
    from engines.base import make_engine
    from engines.build import build_bundle
    from exporter.bundle import Bundle

    build_bundle(Bundle.open(bundle), make_engine(engine, "cpu"))


def _apart(bundle: Path, engine: str, resident: int | None) -> dict[str, Any]:
    """`measure` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.loaded_memory", "--engine", engine]
    bound = [] if resident is None else ["--resident", str(resident)]
    text = subprocess.check_output([*command, *bound, "--bundle", str(bundle)], text=True)
    measured: dict[str, Any] = json.loads(text.splitlines()[-1])
    return measured


if __name__ == "__main__":
    main()
