"""One search, or one export with a run, in whichever checkout is imported: see benchmarks.body_cost.

Run by path, so it may use only what both checkouts have.
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

SEED, STEPS, KEEP = 5, 6, 0.6
PROMPT, CLASS = "a red circle on a blue field", "3"


def searched(path: Path, method: str, file: Path) -> dict[str, Any]:
    """Make a SubNet."""
    from search.methods.options import Options
    from search.methods.registry import search
    from search.model.opening import open_pipeline

    began = time.process_time()
    pipeline = open_pipeline(path, weights=False)
    if method == "rotating":
        subnet = importlib.import_module("benchmarks.export").rotating(pipeline)
    else:
        subnet = search(pipeline, method, Options(steps=STEPS, guidance=4.0, keep=KEEP, seed=SEED))
    subnet.save(file)
    return {"cpu_seconds": round(time.process_time() - began, 2)}


def exported(path: Path, subnet: Path, out: Path) -> dict[str, Any]:
    """Export it."""
    import exporter
    from search.core.subnet import SubNet

    is_now = Path(str(exporter.__file__)).with_name("exporting.py").exists()
    export = importlib.import_module("exporter.exporting" if is_now else "exporter.export").export
    began, wall = time.process_time(), time.perf_counter()
    bundle = export(path, SubNet.load(subnet), out)
    return {
        "cpu_seconds": round(time.process_time() - began, 2),
        "seconds": round(time.perf_counter() - wall, 2),
        "peak_bytes": _peak_bytes(),
        "graphs": len(bundle.graphs),
        "bytes": sum(file.stat().st_size for file in out.iterdir()),
    }


def compared(path: Path, out: Path) -> dict[str, Any]:
    """The largest difference of a pixel to diffusers, of 255; only for SubNets that compute everything."""
    from engines.base import make_engine
    from engines.runner import Runner
    from exporter.bundle import Bundle
    from search.model.opening import open_pipeline

    runner, pipe = (
        Runner(Bundle.open(out), make_engine("onnxruntime", "cpu")),
        open_pipeline(path).pipe,
    )
    takes = inspect.signature(type(pipe).__call__).parameters
    by_class = "class_labels" in takes
    import torch

    found = runner.run(CLASS if by_class else PROMPT, seed=SEED).images
    height, width = found.shape[1:3]
    given = {
        "height": height,
        "width": width,
        "prompt": PROMPT,
        "class_labels": [int(CLASS)],
        "guidance_scale": 4.0,
        "num_inference_steps": STEPS,
        "generator": torch.Generator().manual_seed(SEED),
        "output_type": "np",
        "clean_caption": False,
        "use_resolution_binning": False,
        "return_dict": False,
    }
    with torch.no_grad():
        wanted = pipe(**{name: value for name, value in given.items() if name in takes})[0]
    return {"pixel": round(float(np.abs(found - 255 * np.asarray(wanted)).max()), 2)}


def _peak_bytes() -> int:
    """The largest resident set so far."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def main() -> None:
    """What the arguments say, with the results as JSON."""
    what, *given = sys.argv[1:]
    if what == "search":
        path, method, file = given
        found = searched(Path(path), method, Path(file))
    elif what == "export":
        found = exported(*map(Path, given))
    else:
        found = compared(*map(Path, given))
    click.echo(json.dumps(found))


if __name__ == "__main__":
    main()
