"""TensorRT-RTX plans of quantised step graphs, built without a GPU: `python -m benchmarks.rtx_quantised`.

The full step graph of each pipeline in float16, with int8 (symmetric, as TensorRT takes it) and fp8 layers, for two
kinds of GPU. What the library refuses is recorded with its reason.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchmarks.record import write
from benchmarks.rtx_plans import find
from engines.base import EngineOptions, make_engine
from engines.errors import EngineError

if TYPE_CHECKING:
    from search.core.quantisation import Quantisation
    from search.core.subnet import SubNet
    from search.model.pipeline import Pipeline

PIPELINES = (
    "shapes-sd", "shapes-dit", "sdxl", "sd3", "flux-dev", "pixart-alpha", "pixart-sigma", "aura-flow",
)  # fmt: skip
SCHEMES = ("int8-symmetric", "fp8")
CAPABILITIES = ("8.9", "12.0")
STEPS = 2


def planned(pipeline: Pipeline, subnet: SubNet, scheme: str) -> Quantisation:
    """All layers in a scheme, calibrated on one picture."""
    from search.core.quantisation import scheme_named
    from search.methods.prompts import default_prompts
    from search.model.whole import full_of
    from search.quantise.recipe import QuantiseEffort, quantise

    return quantise(
        pipeline,
        full_of(pipeline, subnet),
        subnet,
        default_prompts(pipeline),
        scheme=scheme_named(scheme),
        refit=False,
        effort=QuantiseEffort(pictures=1, probed=1),
    ).plan


def step_graph(
    path: Path, subnet: SubNet, plan: Quantisation | None, folder: Path, dtype: str = "float16"
) -> Path:
    """The full step graph, quantised, with its weights beside it."""
    import onnx_ir as ir

    from exporter.carve import carve
    from exporter.quantise import quantise
    from exporter.traced import trace_denoiser
    from exporter.weights import refer, write_weights
    from search.core.program import plan_program
    from search.model.opening import open_for

    folder.mkdir()
    program = plan_program(subnet, 1)
    pipeline = open_for(subnet, path, weights=False)
    master = trace_denoiser(pipeline, subnet, program.bases, 1, dtype)
    if plan is not None:
        quantise(master, plan)
    step = carve(master, program.signatures[0], "step")
    refer(folder, step, write_weights(folder, [step]))
    graph = folder / "step.onnx"
    ir.save(step, graph)
    return graph


def built(graph: Path, capability: str) -> dict[str, Any]:
    """Seconds and bytes of the plan, or why there is none."""
    engine = make_engine("tensorrt-rtx", "cpu", EngineOptions(compute_capability=capability))
    out, began = graph.with_suffix(".plan"), time.process_time()
    try:
        engine.build(graph, out, lambda *_: None)
    except EngineError as error:
        return {"refused": str(error).replace(str(graph.parent), "")}
    seconds, size = time.process_time() - began, out.stat().st_size
    out.unlink()
    return {"processor_seconds": round(seconds, 1), "bytes": size}


@click.command()
@click.argument("names", nargs=-1)
def main(names: tuple[str, ...]) -> None:
    """Build the plans of the pipelines NAMES, by default of all."""
    from search.methods.options import Options
    from search.methods.registry import search
    from search.model.opening import open_for, open_pipeline

    results = dict[str, Any]()
    with tempfile.TemporaryDirectory(prefix="stepcarve-") as name:
        for each in names or PIPELINES:
            path = find(each, Path(name))
            subnet = search(open_pipeline(path, weights=False), "full", Options(steps=STEPS))
            pipeline = open_for(subnet, path, weights=True)
            for scheme in SCHEMES:
                plan = planned(pipeline, subnet, scheme)
                graph = step_graph(path, subnet, plan, Path(name) / f"{each}-{scheme}")
                row = {capability: built(graph, capability) for capability in CAPABILITIES}
                results.setdefault(each, {})[scheme] = {"layers": len(plan.layers), **row}
                click.echo(f"{each}, {scheme}: {row}")
            write("rtx-quantised", {"steps": STEPS, "pipelines": results})


if __name__ == "__main__":
    main()
