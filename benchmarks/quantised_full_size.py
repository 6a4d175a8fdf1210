"""int8 at the size of Stable Diffusion 1.5: `python -m benchmarks.quantised_full_size`.

A U-Net of that size with random weights and DeepCache, so a bundle has a full and a shallow step graph; once in
float32, once with the layers that a plan chose in int8 (`mixed`). Each engine loads both graphs of a bundle in a process
of its own, all of them in turn. Seconds are of the processor, the least of all calls, so that other work on the
machine counts little. Random weights say nothing about quality: benchmarks.quantise measures that.
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
    from search.core.quantisation import Quantisation
    from search.core.subnet import SubNet
    from search.model.pipeline import Pipeline

INTERVAL, STEPS = 5, 6
CALIBRATED_AT = 64
"""Edge of the pictures that the plan is made on: seconds do not depend on ranges."""
CALLS = 3
KEEP = 0.2
"""Whole calls of a SubNet of carve, for the runs that are reckoned."""
FULL, SHALLOW = "full", "shallow"
ROWS = {
    "onnxruntime": ("onnxruntime", None),
    "openvino": ("openvino", None),
    "openvino in bfloat16": ("openvino", "bfloat16"),
}
"""Row -> engine and `--precision`."""


def planned(pipeline: Pipeline, subnet: SubNet, share: float) -> Quantisation:
    """All layers in int8 but a share of the work, chosen on tiny pictures; for any SubNet."""
    from search.core.quantisation import scheme_named
    from search.methods.prompts import default_prompts
    from search.model.whole import full_of
    from search.quantise.recipe import QuantiseEffort, quantise

    found = quantise(
        pipeline,
        full_of(pipeline, subnet),
        subnet,
        default_prompts(pipeline),
        scheme=scheme_named("int8"),
        share=share,
        refit=False,
        effort=QuantiseEffort(pictures=1, probed=1),
    )
    return replace(found.plan, subnet="")


def export_all(
    folder: Path, pixels: int, channels: tuple[int, ...], share: float
) -> dict[str, Any]:
    """The pipeline and its two bundles, `float32` and `mixed`; facts of the plan."""
    from benchmarks import full_size
    from exporter.exporting import export
    from search.methods.options import Options
    from search.methods.registry import search
    from search.model.opening import open_for, open_pipeline

    path = folder / "pipeline"
    full_size.sd15(path, channels)
    opened = open_pipeline(path, weights=False)
    small = Options(steps=2, height=CALIBRATED_AT, width=CALIBRATED_AT)
    tiny = search(opened, "full", small)
    plan = planned(open_for(tiny, path, weights=True), tiny, share)
    options = Options(steps=STEPS, height=pixels, width=pixels, interval=INTERVAL)
    subnet = search(opened, "deepcache", options)
    export(path, subnet, folder / "float32")
    export(path, subnet, folder / "mixed", plan=plan)
    return {
        "layers": len(plan.layers),
        "kept": len(plan.kept),
        "share_in_int8": round(sum(each.share for each in plan.layers.values()), 4),
    }


def measure(bundle: Path, row: str, threads: int) -> dict[str, Any]:
    """Load both step graphs on an engine and call them in turn."""
    from benchmarks.integer_kernels import caller
    from engines.base import EngineOptions, make_engine
    from engines.memory import own_bytes, while_running
    from exporter.bundle import Bundle

    opened = Bundle.open(bundle)
    engine, precision = ROWS[row]
    made = make_engine(engine, "cpu", EngineOptions(threads=threads, precision=precision))
    before = own_bytes()
    calls = [caller(made.load(opened.file(graph))) for graph in opened.graphs]
    if len(calls) != 2:
        msg = f"{len(calls)} step graphs; a full and a shallow one were expected"
        raise click.ClickException(msg)
    seconds: dict[str, list[float]] = {FULL: [], SHALLOW: []}

    def work() -> None:
        for _ in range(CALLS):
            for name, call in zip(seconds, calls, strict=True):
                began = time.process_time()
                call()
                seconds[name].append(time.process_time() - began)

    held = while_running(work)
    found = {name: round(min(each), 3) for name, each in seconds.items()}
    return {
        **found,
        **(
            {}
            if held is None
            else {"own_mb": held.own - before >> 20, "total_mb": held.total - before >> 20}
        ),
    }


def measure_eager(folder: Path, pixels: int, threads: int) -> dict[str, Any]:
    """A call of the denoiser as diffusers makes it, both halves of guidance in one batch."""
    import torch
    from diffusers import UNet2DConditionModel

    torch.set_num_threads(threads)
    unet: Any = UNet2DConditionModel.from_pretrained(folder / "pipeline" / "unet").eval()
    sample = torch.randn(2, 4, pixels // 8, pixels // 8)
    text = torch.randn(2, 77, unet.config.cross_attention_dim)
    seconds = []
    with torch.no_grad():
        for _ in range(CALLS):
            began = time.process_time()
            unet(sample, 500, encoder_hidden_states=text)
            seconds.append(time.process_time() - began)
    return {FULL: round(min(seconds), 3)}


def _apart(*arguments: str | Path) -> dict[str, Any]:
    """What this module prints in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.quantised_full_size", *map(str, arguments)]
    found: dict[str, Any] = json.loads(subprocess.check_output(command, text=True).splitlines()[-1])
    return found


def _least(found: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """The lesser of each figure of two rounds."""
    return {name: min(found.get(name, each), each) for name, each in more.items()}


def _ratios(rows: dict[str, Any]) -> None:
    """Beside each row of the mixed bundle, how it compares with float32 on the same engine."""
    eager = rows["PyTorch"][FULL]
    for key, row in rows.items():
        if key == "PyTorch":
            continue
        plain = rows[f"float32, {key.split(', ')[1].split()[0]}"]
        row["times_faster"] = {name: round(plain[name] / row[name], 2) for name in (FULL, SHALLOW)}
        if "own_mb" in row:
            row["memory"] = round(row["own_mb"] / plain["own_mb"], 3)
        row["over_pytorch_at_keep"] = round(eager / row[FULL] / KEEP, 1)


@click.command()
@click.option("--pixels", default=512, show_default=True, help="Edge of the picture.")
@click.option("--threads", default=1, show_default=True, help="Of the engines and PyTorch.")
@click.option("--rounds", default=2, show_default=True, help="Every row in a process of its own.")
@click.option("--share", default=0.05, show_default=True, help="Of the work left in float32.")
@click.option("--channels", help="Of the levels of the U-Net.  [default: SD-1.5's]")
@click.option("--folder", type=click.Path(path_type=Path), hidden=True)
@click.option("--row", hidden=True)
def main(
    pixels: int,
    threads: int,
    rounds: int,
    share: float,
    channels: str | None,
    folder: Path | None,
    row: str | None,
) -> None:
    """Measure every engine and write results/quantised-full-size.json."""
    from benchmarks.full_size import SD15_CHANNELS

    if folder is not None and row is not None:
        name, _, engine = row.partition(", ")
        found = (
            measure(folder / name, engine, threads)
            if engine
            else measure_eager(folder, pixels, threads)
        )
        click.echo(json.dumps(found))
        return
    levels = tuple(map(int, channels.split(","))) if channels else SD15_CHANNELS
    with tempfile.TemporaryDirectory(prefix="stepcarve-") as temporary:
        made = Path(temporary)
        facts = export_all(made, pixels, levels, share)
        sizes = {name: _weights(made / name) for name in ("float32", "mixed")}
        rows: dict[str, Any] = {}
        names = ["PyTorch", *(f"{name}, {each}" for name in sizes for each in ROWS)]
        for _ in range(rounds):
            for each in names:
                more = _apart(
                    "--folder",
                    made,
                    "--row",
                    each,
                    "--pixels",
                    str(pixels),
                    "--threads",
                    str(threads),
                )
                rows[each] = _least(rows.get(each, {}), more)
                click.echo(f"{each}: {rows[each]}")
    _ratios(rows)
    settings = {
        "pixels": pixels,
        "channels": levels,
        "threads": threads,
        "rounds": rounds,
        "keep": KEEP,
    }
    weights = {"bytes": sizes, "ratio": round(sizes["mixed"] / sizes["float32"], 3)}
    click.echo(
        write("quantised-full-size", {**settings, "plan": facts, "weights": weights, "rows": rows})
    )


def _weights(bundle: Path) -> int:
    """Bytes of a bundle's file of weights."""
    from exporter.bundle import WEIGHTS

    return (bundle / WEIGHTS).stat().st_size


if __name__ == "__main__":
    main()
