"""Memory of `verify` at the size of Stable Diffusion 1.5: `python -m benchmarks.verify_memory`.

A U-Net of that size with random weights, 64x64 latents, layer granularity. Every `INTERVAL`-th step runs
every layer; the steps between run the last few and read the rest from the cache. `verify` with ONNX
Runtime on the CPU runs in a process of its own, whose peak resident memory is recorded: the weights
that it maps from files are part of that.

What `verify` keeps of a step that is over is its latents, its noise prediction and the denoiser's input,
of the full and of the gated run, and the caches that a later call reads: so the peak of more steps is
computed from that of a few.
"""

from __future__ import annotations

import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchmarks.record import write

if TYPE_CHECKING:
    from search.core.subnet import SubNet
    from search.model.pipeline import Pipeline

INTERVAL = 5
LAST = 6
"""Layers that run at every step."""
PROMPT = "a small red circle left on a grey field"
STEPS = 50
"""Of the bar."""
PIXELS = 512
GIB = 2**30
PIPELINE, BUNDLE = "pipeline", "bundle"


def mostly_shallow(pipeline: Pipeline, steps: int, pixels: int) -> SubNet:
    """Everything at every `INTERVAL`-th step, the last layers at the others."""
    from search.core.actions import Action
    from search.core.subnet import Granularity
    from search.core.table import with_actions
    from search.methods.options import Options
    from search.methods.registry import search

    options = Options(steps=steps, height=pixels, width=pixels, granularity=Granularity.LAYER)
    whole = search(pipeline, "full", options)
    count = len(whole.topology.blocks)
    return with_actions(
        whole,
        lambda step, block: (
            Action.REUSE if step % INTERVAL and block < count - LAST else Action.RUN
        ),
        method="mostly shallow",
    )


def make(folder: Path, steps: int, pixels: int, *, small: bool) -> None:
    """The pipeline and its bundle."""
    from benchmarks import full_size
    from exporter.exporting import export
    from search.model.opening import open_pipeline

    path = folder / PIPELINE
    full_size.sd15(path, full_size.SMALL_CHANNELS if small else full_size.SD15_CHANNELS)
    subnet = mostly_shallow(open_pipeline(path, weights=False), steps, pixels)
    export(path, subnet, folder / BUNDLE)


def measure(folder: Path) -> dict[str, Any]:
    """Verify once, and say what that took."""
    from engines.base import make_engine
    from engines.parity import verify
    from engines.report import verdict
    from exporter.bundle import Bundle

    bundle = Bundle.open(folder / BUNDLE)
    began = time.perf_counter()
    peaks: dict[str, int] = {}

    def report(text: str) -> None:
        peaks[text] = peak()
        click.echo(
            f"{time.perf_counter() - began:7.0f} s, {peak() / GIB:.2f} GiB: {text}", err=True
        )

    engine = make_engine("onnxruntime", "cpu")
    parity, _ = verify(bundle, [engine], folder / PIPELINE, prompt=PROMPT, report=report)
    return {
        "verdict": verdict(parity),
        "failures": list(parity.failures),
        "calls": len(bundle.calls),
        "cache_bytes": sum(4 * math.prod(shape) for shape in bundle.slots),
        "seconds": round(time.perf_counter() - began),
        "peak_bytes_before": peaks,
        "peak_bytes": peak(),
    }


def peak() -> int:
    """Most bytes that were resident in this process, mapped files included."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def weight_bytes(folder: Path) -> int:
    """Of the denoiser in float32."""
    return sum(file.stat().st_size for file in (folder / PIPELINE / "unet").glob("*.safetensors"))


def kept_per_step(pixels: int) -> int:
    """Bytes of two runs' latents, noise predictions and denoiser inputs in float32."""
    return 2 * 3 * 4 * 4 * (pixels // 8) ** 2


@click.command()
@click.option("--steps", default=STEPS, show_default=True)
@click.option("--pixels", default=PIXELS, show_default=True, help="Edge of the picture.")
@click.option("--small", is_flag=True, help="Narrow channels, to try the benchmark itself.")
@click.option("--part", type=click.Choice(["make", "measure"]), hidden=True)
@click.option("--folder", type=click.Path(path_type=Path), hidden=True)
def main(steps: int, pixels: int, small: bool, part: str | None, folder: Path | None) -> None:
    """Measure, and write results/verify-memory-sd15.json."""
    if folder is not None:
        if part == "make":
            make(folder, steps, pixels, small=small)
        else:
            click.echo(json.dumps(measure(folder)))
        return
    command = [sys.executable, "-m", "benchmarks.verify_memory", "--steps", str(steps)]
    command += ["--pixels", str(pixels), *(["--small"] if small else [])]
    with tempfile.TemporaryDirectory() as name:
        subprocess.check_call([*command, "--part", "make", "--folder", name])
        text = subprocess.check_output([*command, "--part", "measure", "--folder", name], text=True)
        weights = weight_bytes(Path(name))
    found = json.loads(text.splitlines()[-1])
    more = kept_per_step(pixels) * max(0, STEPS - steps)
    allowed = 3 * weights + 2 * GIB
    result = {
        "steps": steps,
        "pixels": pixels,
        "granularity": "layer",
        "weights_bytes": weights,
        **found,
        "kept_per_step_bytes": kept_per_step(pixels),
        f"peak_bytes_at_{STEPS}_steps": found["peak_bytes"] + more,
        "allowed_bytes": allowed,
        "holds": found["peak_bytes"] + more <= allowed,
    }
    click.echo(json.dumps(result, indent=1))
    if not small:
        click.echo(write("verify-memory-sd15", result))


if __name__ == "__main__":
    main()
