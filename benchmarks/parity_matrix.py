"""Parity of every engine on every family of the exporter: `python -m benchmarks.parity_matrix`.

Per pipeline a SubNet with all actions mixed at random. What is recorded per engine is how many floors its
largest differences are; a rung holds up to k of them.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchmarks.record import write
from engines.base import make_engine
from engines.parity import K, verify
from exporter.exporting import export
from search.methods.options import Options
from search.methods.registry import search
from search.model.opening import open_pipeline
from tests.mixes import random_mix
from tests.pipelines import RANDOM, SHIPPED

if TYPE_CHECKING:
    from collections.abc import Iterable

    from engines.parity.measure import Difference
    from engines.parity.record import Rung
    from search.core.subnet import SubNet

GUIDANCE = {
    "sdxl": 5.0,
    "sd3": 7.0,
    "flux-dev": 3.5,
    "flux-schnell": 0.0,
    "aura-flow": 3.5,
    "pixart-sigma": 4.5,
    "pixart-alpha": 4.5,
}
"""As people call these pipelines; the others take 7.5."""
PROMPTS = {"shapes-dit": "red circle", "learned-variance": "7"}
PROMPT = "a small red circle left on a grey field"


def measure(
    name: str, folder: Path, engines: tuple[str, ...], steps: int, dtype: str
) -> dict[str, Any]:
    """One row of the matrix."""
    path = SHIPPED / name
    if name in RANDOM:
        path = folder / name
        RANDOM[name]().save_pretrained(path)
    options = Options(steps=steps, guidance=GUIDANCE.get(name, 7.5))
    if name in GUIDANCE:
        options = replace(options, height=16, width=24)
    subnet = random_mix(search(open_pipeline(path, weights=False), "full", options), seed=5)
    return verified(path, subnet, folder / f"{name}-bundle", engines, dtype)


def verified(
    path: Path, subnet: SubNet, out: Path, engines: tuple[str, ...], dtype: str = "float32"
) -> dict[str, Any]:
    """The facts about `subnet` of the pipeline `path`, exported to `out` and verified."""
    bundle = export(path, subnet, out, dtype=dtype)
    chosen = [make_engine(engine, "cpu") for engine in engines]
    parity, _ = verify(bundle, chosen, path, prompt=PROMPTS.get(path.name, PROMPT), seed=1)
    return {
        "passed": parity.passed,
        "failures": list(parity.failures),
        "notes": list(parity.notes),
        "calls": len(bundle.calls),
        "graphs": len(bundle.graphs),
        **{rung.name: _row(rung) for rung in parity.engines},
    }


def _row(rung: Rung) -> dict[str, Any]:
    forced = [each for call in rung.calls for each in call.forced.values()]
    free = [call.free for call in rung.calls if call.free is not None]
    return {
        "passed": rung.passed,
        "second pass": "same" if rung.repeats else "differs",
        "call, floors": _floors(forced),
        "input, floors": _floors(free),
        "final latents, floors": _floors([rung.finals["latents"]]),
        "decoder, floors": _floors([rung.finals["decoder"]]),
        "call, error": max(each.relative for each in forced),
        "final latents, error": rung.finals["latents"].relative,
    }


def _floors(differences: Iterable[Difference]) -> float:
    """The largest, in floors."""
    return round(max(each.relative / each.floor for each in differences), 2)


@click.command()
@click.argument("names", nargs=-1)
@click.option("--engine", "engines", multiple=True, default=("onnxruntime", "openvino"))
@click.option("--steps", default=12, show_default=True)
@click.option("--dtype", default="float32", show_default=True)
def main(names: tuple[str, ...], engines: tuple[str, ...], steps: int, dtype: str) -> None:
    """Verify the pipelines NAMES, or all, and write results/parity-matrix-DTYPE.json."""
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in names or ("shapes-sd", "shapes-dit", *RANDOM):
            rows[name] = measure(name, Path(folder), engines, steps, dtype)
            click.echo(f"{name}: {rows[name]}")
            click.echo(write(f"parity-matrix-{dtype}", {"k": K, "steps": steps, "pipelines": rows}))


if __name__ == "__main__":
    main()
