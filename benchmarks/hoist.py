"""What hoisting loop invariants saves per call: `python -m benchmarks.hoist`.

A U-Net of the size of Stable Diffusion 1.5 with random weights. The two calls of DeepCache, full and shallow,
are carved with their invariants as inputs and with their invariants computed inside, as they were traced;
all four are run in turn, round after round, and so is the prologue, which a prompt pays for once.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
import onnx_ir as ir

from benchmarks.full_size import SD15_CHANNELS, SMALL_CHANNELS, sd15
from benchmarks.record import write
from engines.base import make_engine
from engines.latency import filled
from exporter.carve import carve
from exporter.prologue import make_prologue
from exporter.traced import trace_denoiser
from exporter.weights import refer, write_weights
from search.core.program import plan_program
from search.methods.options import Options
from search.methods.registry import search
from search.model.opening import open_pipeline

if TYPE_CHECKING:
    from collections.abc import Callable

    from engines.base import Engine
    from exporter.trace import Master

GUIDANCE = 7.5
CALLS = ("full", "shallow")


def compute_inside(master: Master) -> None:
    """Undo the hoisting: let the loop read its invariants where they are computed."""
    for name, value in master.invariants.items():
        ir.convenience.replace_all_uses_with(master.inputs[name], value)
    master.model.graph.sort()


def save_graphs(path: Path, folder: Path, steps: int, pixels: int) -> dict[str, int]:
    """Write all graphs and their weights to `folder`; returns the nodes of each."""
    pipeline = open_pipeline(path, weights=False)
    options = Options(steps=steps, guidance=GUIDANCE, interval=5, height=pixels, width=pixels)
    subnet = search(pipeline, "deepcache", options)
    program = plan_program(subnet, 1)
    master = trace_denoiser(pipeline, subnet, frozenset(), 1)
    signatures = dict(zip(CALLS, program.signatures, strict=True))
    models = {f"{call}, hoisted": carve(master, s, call) for call, s in signatures.items()}
    reads = {value.name or "" for model in models.values() for value in model.graph.inputs}
    prologue = make_prologue(master, reads, program.timesteps)
    if prologue is None:
        msg = "the denoiser has no loop invariants"
        raise click.ClickException(msg)
    models["prologue"] = prologue.model
    compute_inside(master)
    models |= {f"{call}, inside": carve(master, s, call) for call, s in signatures.items()}
    index = write_weights(folder, models.values())
    for name, model in models.items():
        refer(folder, model, index)
        ir.save(model, folder / f"{name}.onnx")
    return {name: len(model.graph) for name, model in models.items()}


def runnable(engine: Engine, file: Path) -> Callable[[], None]:
    """A call of a graph on random values."""
    session, random = engine.load(file), np.random.default_rng(0)
    inputs = {name: filled(form, random) for name, form in session.inputs.items()}
    outputs = {name: np.zeros(*form) for name, form in session.outputs.items()}
    return partial(_run, session.bind(inputs, outputs), (inputs, outputs))


def _run(run: Callable[[], None], buffers: object) -> None:
    """Run a bound graph whose `buffers` must be alive."""
    del buffers
    run()


@click.command()
@click.option("--latents", "edge", default=64, show_default=True, help="Edge of the latents.")
@click.option("--steps", default=50, show_default=True)
@click.option("--rounds", default=7, show_default=True)
@click.option("--small", is_flag=True, help="Try it on a small U-Net; nothing is recorded.")
def main(edge: int, steps: int, rounds: int, small: bool) -> None:
    """Measure both calls with and without hoisting and write results/hoist.json."""
    engine = make_engine("onnxruntime", "cpu")
    with tempfile.TemporaryDirectory() as name:
        folder, path = Path(name) / "graphs", Path(name) / "pipeline"
        folder.mkdir()
        sd15(path, SMALL_CHANNELS if small else SD15_CHANNELS)
        nodes = save_graphs(path, folder, steps, 8 * edge)
        calls = {name: runnable(engine, folder / f"{name}.onnx") for name in nodes}
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(rounds + 1):
            for name, call in calls.items():
                began = time.perf_counter()
                call()
                seconds[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(each[1:]) for name, each in seconds.items()}
    for name, median in medians.items():
        click.echo(f"{name:20} {median:8.4f} s  {nodes[name]:5} nodes")
    result = {
        "latents": (1, 4, edge, edge),
        "timesteps": steps,
        "rounds": rounds,
        "nodes": nodes,
        "seconds": {name: round(median, 4) for name, median in medians.items()},
        "saved_seconds": {
            call: round(medians[f"{call}, inside"] - medians[f"{call}, hoisted"], 4)
            for call in CALLS
        },
    }
    click.echo(result if small else write("hoist", result))


if __name__ == "__main__":
    main()
