"""TensorRT-RTX plans of small pipelines, built without a GPU: `python -m benchmarks.rtx_plans`.

Every graph of a float16 bundle of each pipeline, for a random SubNet; each is built in a process of its own.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click

from benchmarks.record import ROOT, write
from engines.base import EngineOptions, make_engine

PIPELINES = ("shapes-sd", "shapes-dit", "sdxl", "sd3", "flux-dev", "flux-schnell")
STEPS, KEEP, CAPABILITY = 6, 0.5, "8.9"


def find(name: str, folder: Path) -> Path:
    """Directory of a pipeline: a shipped one, or one of the tests', saved to `folder`."""
    from tests.pipelines import RANDOM

    shipped = ROOT / "examples" / "shapes" / name
    if shipped.is_dir():
        return shipped
    path = folder / name
    RANDOM[name]().save_pretrained(path)
    return path


def plans(name: str, folder: Path) -> dict[str, Any]:
    """Export a pipeline and build every graph of the bundle."""
    from engines.build import build_bundle
    from engines.built import read_record, record_of
    from exporter.exporting import export
    from search.methods.options import Options
    from search.methods.registry import search
    from search.model.opening import open_pipeline

    path = find(name, folder)
    options = Options(steps=STEPS, keep=KEEP, guidance=3.0)
    subnet = search(open_pipeline(path, weights=False), "random", options)
    bundle = export(path, subnet, folder / f"bundle-{name}", dtype="float16")
    engine_options = EngineOptions(compute_capability=CAPABILITY)
    engine = make_engine("tensorrt-rtx", "cpu", engine_options)
    build_bundle(bundle, engine)
    graphs = {}
    for graph in bundle.models:
        record = read_record(record_of(bundle, engine, graph))
        if record is None:
            msg = f"{name}: {graph} has no plan"
            raise RuntimeError(msg)
        graphs[graph] = {"seconds": round(record.seconds, 2), "bytes": record.bytes}
    return {"step_graphs": len(bundle.graphs), "key": engine.key(), "graphs": graphs}


@click.command()
@click.argument("names", nargs=-1)
def main(names: tuple[str, ...]) -> None:
    """Build the plans of the pipelines NAMES, by default of all."""
    results = {}
    with tempfile.TemporaryDirectory(prefix="stepcarve-") as folder:
        for name in names or PIPELINES:
            results[name] = plans(name, Path(folder))
            seconds = sum(each["seconds"] for each in results[name]["graphs"].values())
            click.echo(f"{name}: {len(results[name]['graphs'])} plans, {seconds:.1f} s")
    click.echo(write("rtx-plans", {"steps": STEPS, "keep": KEEP, "pipelines": results}))


if __name__ == "__main__":
    main()
