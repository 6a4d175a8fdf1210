"""Memory of a bundle with very many step graphs: `python -m benchmarks.loaded_memory`.

A U-Net of the size of Stable Diffusion 1.5 with random weights, 50 steps: the full sampler's one graph, and
random tables with a graph for nearly every step. Each is loaded and run once in a process of its own, which then
reads its resident memory: its own, and the weights mapped from the bundle's file, as far as they were touched and
once however many sessions map them (the kernel's proportional set size).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from benchmarks.record import write

METHODS = ("full", "random")
KEEP = 0.5
"""Of the random table; the full one takes no notice."""


def export_all(folder: Path, pixels: int) -> None:
    """A bundle per method, named after it."""
    from benchmarks import full_size
    from exporter.export import export
    from search.methods import search
    from search.model.pipeline import open_pipeline
    from search.options import Options

    path = folder / "pipeline"
    full_size.sd15(path)
    pipeline = open_pipeline(path, weights=False)
    options = Options(steps=50, height=pixels, width=pixels, keep=KEEP)
    for method in METHODS:
        export(path, search(pipeline, method, options), folder / method)


def measure(bundle: Path) -> dict[str, Any]:
    """Load and run once."""
    from engines.base import make_engine
    from engines.runner import Runner
    from exporter.bundle import Bundle

    opened = Bundle.open(bundle)
    began = time.perf_counter()
    runner = Runner(opened, make_engine("onnxruntime", "cpu"))
    loaded = time.perf_counter() - began
    runner.run("a small red circle left on a grey field", seed=0)
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="utf-8").splitlines()[1:]
    sizes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    return {
        "graphs": len(opened.graphs),
        "seconds_to_load": round(loaded, 1),
        "resident_mb": round((sizes["Pss_Anon"] + sizes["Pss_File"]) / 1024),
        "own_mb": round(sizes["Pss_Anon"] / 1024),
    }


@click.command()
@click.option("--pixels", default=256, show_default=True, help="Edge of the picture.")
@click.option("--bundle", type=click.Path(path_type=Path), hidden=True)
def main(pixels: int, bundle: Path | None) -> None:
    """Compare both and write results/loaded-memory.json."""
    if bundle is not None:
        click.echo(json.dumps(measure(bundle)))
        return
    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        export_all(folder, pixels)
        for method in METHODS:
            command = [sys.executable, "-m", "benchmarks.loaded_memory", "--bundle"]
            text = subprocess.check_output([*command, str(folder / method)], text=True)
            found[method] = json.loads(text.splitlines()[-1])
            click.echo(f"{method}: {found[method]}")
    ratio = found["random"]["resident_mb"] / found["full"]["resident_mb"]
    click.echo(write("loaded-memory", {"pixels": pixels, "ratio": round(ratio, 3), **found}))


if __name__ == "__main__":
    main()
