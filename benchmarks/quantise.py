"""What int8 costs the pictures of the trained pipelines: `python -m benchmarks.quantise [PIPELINE...]`.

The full sampler and a SubNet of carve, each with the whole denoiser in int8 and with a share of its work
left in floating point. Errors are relative L2 of final latents on held-out pictures: of the quantised SubNet
to itself in floating point (`drift`), and of both to the full sampler.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchmarks.record import write

if TYPE_CHECKING:
    from search.core.subnet import SubNet
    from search.model.pipeline import Pipeline

SHAPES = Path(__file__).parent.parent / "examples" / "shapes"
SHARES = (0.0, 0.1)
"""Of the work that stays in floating point."""


def measure(pipeline: Pipeline, subnet: SubNet, share: float, pictures: int) -> dict[str, Any]:
    """One row: the SubNet quantised with that share of its work in floating point."""
    from search.core.quantisation import scheme_named
    from search.methods.prompts import default_prompts
    from search.model.whole import full_of
    from search.quantise.recipe import Effort, quantise

    began = time.process_time()
    found = quantise(
        pipeline,
        full_of(pipeline, subnet),
        subnet,
        default_prompts(pipeline),
        scheme=scheme_named("int8"),
        share=share or None,
        effort=Effort(pictures, probed=2),
    )
    seconds = time.process_time() - began
    return {"float_share": share, **found.to_json(), "processor_seconds": round(seconds, 1)}


@click.command()
@click.argument("names", nargs=-1)
@click.option("--pictures", default=64, help="To calibrate and fit on, and as many to judge by.")
@click.option("--keep", default=0.2, help="Of the SubNet of carve.")
def main(names: tuple[str, ...], pictures: int, keep: float) -> None:
    """Measure the trained pipelines, and write one record each."""
    from search.methods.options import Options
    from search.methods.registry import search
    from search.model.pipeline import open_for, open_pipeline

    for name in names or ("shapes-dit", "shapes-sd"):
        path, rows = SHAPES / name, dict[str, Any]()
        for method, options in (("full", Options()), ("carve", Options(keep=keep))):
            subnet = search(open_pipeline(path), method, options)
            pipeline = open_for(subnet, path, weights=True)
            rows[subnet.method] = [measure(pipeline, subnet, share, pictures) for share in SHARES]
            write(f"quantise-{name}", {"pictures": pictures, "rows": rows})


if __name__ == "__main__":
    main()
