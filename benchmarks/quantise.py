"""What int8 costs the pictures of the trained pipelines: `python -m benchmarks.quantise [PIPELINE...]`.

The full sampler and a SubNet of carve, each with the whole denoiser in int8 and with shares of its work
left in floating point. Errors are relative L2 of final latents on held-out pictures: of the quantised SubNet
to itself in floating point (`drift`), and of both to the full sampler.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from benchmarks.record import write
from benchmarks.trained import TRAINED_NAMES, trained_named
from search.commands.values import SHARE, OneOf
from search.quantise.ranges import Ranges

if TYPE_CHECKING:
    from collections.abc import Sequence

    from search.core.subnet import SubNet
    from search.model.pipeline import Pipeline

SHARES = {"full": (0.0, 0.1), "carve": (0.05, 0.2)}
"""By method, the shares of the work that stay in floating point."""
SEARCH_PICTURES, SEARCH_ITERATIONS = 48, 10
"""What carve searches with."""


def measure(
    pipeline: Pipeline,
    subnet: SubNet,
    prompts: Sequence[str],
    share: float,
    pictures: int,
    *,
    ranges: Ranges,
    smoothing: float | None,
    spans: int,
) -> dict[str, Any]:
    """One row: the SubNet quantised with that share of its work in floating point."""
    from search.core.quantisation import scheme_named
    from search.model.whole import full_of
    from search.quantise.recipe import QuantiseEffort, quantise

    began = time.process_time()
    found = quantise(
        pipeline,
        full_of(pipeline, subnet),
        subnet,
        prompts,
        scheme=scheme_named("int8"),
        share=share or None,
        effort=QuantiseEffort(pictures, probed=2),
        ranges=ranges,
        smoothing=smoothing,
        spans=spans,
    )
    seconds = time.process_time() - began
    return {"float_share": share, **found.to_json(), "processor_seconds": round(seconds, 1)}


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(TRAINED_NAMES))
@click.option("--pictures", default=64, help="To calibrate and fit on, and as many to judge by.")
@click.option("--keep", default=0.2, help="Of the SubNet of carve.")
@click.option("--ranges", type=OneOf(Ranges), default=Ranges.MINMAX.value, help="Of inputs.")
@click.option("--smoothing", type=SHARE, help="As for stepcarve quantise.")
@click.option("--spans", default=1, help="As for stepcarve quantise.")
@click.option(
    "--method", "methods", multiple=True, type=click.Choice([*SHARES]), default=tuple(SHARES)
)
def main(
    names: tuple[str, ...],
    pictures: int,
    keep: float,
    ranges: Ranges,
    smoothing: float | None,
    spans: int,
    methods: tuple[str, ...],
) -> None:
    """Measure the trained pipelines, and write one record each."""
    from search.methods.options import Options
    from search.methods.registry import search
    from search.model.opening import open_for

    suffix = "" if ranges is Ranges.MINMAX else f"-{ranges}"
    suffix += "" if smoothing is None else f"-smoothing-{smoothing:g}"
    suffix += "" if spans == 1 else f"-spans-{spans}"
    for trained in map(trained_named, names or TRAINED_NAMES):
        rows, opened = dict[str, Any](), trained.open()
        prompts, _ = trained.prompts(opened)
        whole = Options(steps=trained.steps, guidance=trained.guidance)
        searched = replace(whole, keep=keep, pictures=SEARCH_PICTURES, iterations=SEARCH_ITERATIONS)
        for method in methods:
            options = whole if method == "full" else searched
            subnet = search(opened, method, options)
            pipeline = open_for(subnet, trained.path, weights=True)
            rows[subnet.method] = [
                measure(
                    pipeline,
                    subnet,
                    prompts,
                    share,
                    pictures,
                    ranges=ranges,
                    smoothing=smoothing,
                    spans=spans,
                )
                for share in SHARES[method]
            ]
            write(
                f"quantise-{trained.name}{suffix}",
                {
                    "pictures": pictures,
                    "keep": keep,
                    "search_pictures": SEARCH_PICTURES,
                    "search_iterations": SEARCH_ITERATIONS,
                    "rows": rows,
                },
            )


if __name__ == "__main__":
    main()
