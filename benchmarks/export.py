"""Exports at full size, with random weights: `python -m benchmarks.export sd15`.

Each export runs in a process of its own, which reads its largest resident set (weights that are mapped from disk included); beside it, one plain
`torch.onnx.export` of the same denoiser. `flux` is not exported: its weights are a file of zeros without
blocks on disk, its needs are estimated and its denoiser is traced.
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
    from search.model.pipeline import Pipeline

STEPS, INTERVAL, GUIDANCE = 50, 5, 5.0
SUBNET = "subnet.json"
DTYPES = {"sd15": ("float32", "float16"), "sdxl": ("float16",), "flux": ("bfloat16",)}


def save_pipeline(name: str, folder: Path) -> None:
    """Write a pipeline with a denoiser of full size behind small text encoders."""
    import torch

    from benchmarks import full_size

    with torch.no_grad():
        getattr(full_size, name)(folder)


def rotating(pipeline: Pipeline) -> SubNet:
    """DeepCache whose branch changes with every interval, so that there are many step graphs."""
    from search.methods.options import Options
    from search.methods.registry import search

    options = Options(steps=STEPS, guidance=GUIDANCE, interval=INTERVAL)
    branches = [search(pipeline, "deepcache", replace(options, branch=b)) for b in range(8)]
    rows = [
        branches[step // INTERVAL % len(branches)].actions[step]
        for step in range(len(branches[0].actions))
    ]
    return replace(branches[0], actions=tuple(rows), method="deepcache, rotating")


def ours(path: Path, out: Path, dtype: str) -> dict[str, Any]:
    """Export the SubNet that lies beside the pipeline."""
    from exporter.exporting import export
    from search.core.subnet import SubNet

    subnet = SubNet.load(path.parent / SUBNET)
    stages: list[tuple[str, float]] = []
    began = time.perf_counter()
    bundle = export(
        path,
        subnet,
        out,
        dtype=dtype,
        report=lambda text: stages.append((text, round(time.perf_counter() - began, 1))),
    )
    seconds = time.perf_counter() - began
    return {"seconds": round(seconds, 1), "graphs": len(bundle.graphs), "stages": stages}


def plain(path: Path, out: Path) -> dict[str, Any]:
    """What anyone would write: load the denoiser, export it, save it.

    Loading is not timed, but is in the memory.
    """
    import torch

    from search.model.family import Request
    from search.model.opening import open_pipeline
    from search.model.recording import record_call

    pipeline = open_pipeline(path)
    request = Request(prompts=("a",), steps=2, guidance=GUIDANCE)
    call = record_call(pipeline, request)
    arguments = dict(call.arguments)
    arguments[call.names[0]] = call.sample
    arguments[call.names[1]] = call.model_timestep(torch.tensor(1.0))
    out.mkdir()
    began = time.perf_counter()
    program = torch.onnx.export(
        pipeline.denoiser, kwargs=arguments, dynamo=True, opset_version=23, verbose=False
    )
    assert program is not None
    program.save(str(out / "denoiser.onnx"), external_data=True)
    return {"seconds": round(time.perf_counter() - began, 1)}


def trace_only(path: Path, out: Path, dtype: str) -> dict[str, Any]:
    """Preflight and trace, as the export begins."""
    from exporter.errors import ExportError
    from exporter.preflight import needs_of, require_room
    from exporter.traced import trace_denoiser
    from search.methods.options import Options
    from search.methods.whole import full
    from search.model.opening import open_pipeline

    pipeline = open_pipeline(path, weights=False)
    try:
        verdict = require_room(pipeline, out, dtype)
    except ExportError as error:
        verdict = str(error)
    began = time.perf_counter()
    subnet = full(pipeline, Options(steps=28, guidance=3.5))
    searched = time.perf_counter() - began
    began = time.perf_counter()
    master = trace_denoiser(pipeline, subnet, frozenset(), 1, dtype)
    return {
        "preflight": verdict,
        "needs": vars(needs_of(pipeline, dtype)),
        "topology_seconds": round(searched, 1),
        "seconds": round(time.perf_counter() - began, 1),
        "blocks": len(subnet.topology.blocks),
        "gmacs_per_call": round(subnet.topology.macs / 1e9),
        "nodes": len(master.model.graph),
    }


def search_only(path: Path) -> dict[str, Any]:
    """Make the SubNet to export."""
    from search.model.opening import open_pipeline

    began = time.perf_counter()
    rotating(open_pipeline(path, weights=False)).save(path.parent / SUBNET)
    return {"seconds": round(time.perf_counter() - began, 1)}


def child(mode: str, path: Path, out: Path) -> None:
    """Do one of these and print what it took as JSON."""
    what, _, dtype = mode.partition("-")
    match what:
        case "search":
            found = search_only(path)
        case "plain":
            found = plain(path, out)
        case "ours":
            found = ours(path, out, dtype)
        case _:
            found = trace_only(path, out, dtype)
    peak = peak_bytes()
    sizes = {file.name: file.stat().st_size for file in out.iterdir()} if out.is_dir() else {}
    click.echo(json.dumps({**found, "peak_bytes": peak, "files": sizes}))


def peak_bytes() -> int:
    """The largest resident set so far; `getrusage` would count that of the parent too."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM"):
            return 1024 * int(line.split()[1])
    msg = "this system does not say what a process's largest resident set was"
    raise click.ClickException(msg)


def _run(mode: str, path: Path, out: Path) -> dict[str, Any]:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.export", "--child", mode]
    text = subprocess.check_output([*command, "--at", str(path), "--to", str(out)], text=True)
    found: dict[str, Any] = json.loads(text.splitlines()[-1])
    click.echo(f"{mode}: {found['seconds']} s, peak {found['peak_bytes'] / 1e9:.2f} GB")
    return found


@click.command()
@click.argument("name", type=click.Choice(list(DTYPES)), default="sd15")
@click.option("--plain/--no-plain", "with_plain", default=True, help="Also the plain export.")
@click.option("--child", "child_mode", hidden=True)
@click.option("--at", type=click.Path(path_type=Path), hidden=True)
@click.option("--to", type=click.Path(path_type=Path), hidden=True)
def main(name: str, with_plain: bool, child_mode: str | None, at: Path, to: Path) -> None:
    """Measure time, memory and size of the exports of one model and write results/export-NAME.json."""
    if child_mode is not None:
        child(child_mode, at, to)
        return
    if name == "flux":
        modes = [f"trace-{dtype}" for dtype in DTYPES[name]]
    else:
        modes = ["search", *["plain"] * with_plain, *(f"ours-{dtype}" for dtype in DTYPES[name])]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pipeline"
        save_pipeline(name, path)
        found = {}
        for mode in modes:
            out = Path(folder) / mode
            found[mode] = _run(mode, path, out)
            for file in out.iterdir() if out.is_dir() else ():
                file.unlink()
    click.echo(write(f"export-{name}", found))


if __name__ == "__main__":
    main()
