"""`stepcarve quantise`: choose which layers multiply in few bits."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click
import cloup

from search.commands import screen, shared
from search.commands.values import ABOVE_0, AT_LEAST_1, PATH, SHARE, OneOf
from search.core.quantisation import SCHEMES, SUFFIX
from search.quantise.ranges import Kinds, Ranges

if TYPE_CHECKING:
    from pathlib import Path


@shared.command("quantise")
@shared.pipeline_argument
@shared.subnet_argument
@shared.option_group(
    "Number format",
    cloup.option(
        "--precision",
        type=click.Choice([each.name for each in SCHEMES]),
        default="int8",
        help="Quantise to this precision; those that end in -weights leave the layers' inputs in floating "
        "point.",
    ),
    cloup.option(
        "--ranges",
        type=OneOf(Ranges),
        default=Ranges.MINMAX.value,
        help="Range of a layer's inputs: all values seen (minmax), all but the outermost (percentile), or the "
        "one that rounds with the least mean squared error (mse).",
    ),
    cloup.option(
        "--smoothing",
        type=SHARE,
        help="Divide the input channels of linear layers by powers of two, and multiply their weights by them "
        "(SmoothQuant): 0 evens out the weights, 1 the inputs, 0.5 is usual.",
    ),
    cloup.option(
        "--spans",
        type=AT_LEAST_1,
        default=1,
        help="Split the steps into this many spans, each with input ranges of its own. The weights stay shared, "
        "but calls in different spans never share a step graph.",
    ),
)
@shared.option_group(
    "What stays in floating point",
    cloup.option(
        "--layers",
        "kinds",
        type=OneOf(Kinds),
        default=Kinds.ALL.value,
        help="Quantise all layers, or leave convolutions in floating point.",
    ),
    cloup.option(
        "--float-share",
        type=SHARE,
        help="Leave this fraction of the multiply-accumulates in floating point, where it helps most.",
    ),
    cloup.option(
        "--max-error",
        type=ABOVE_0,
        help="Leave as little in floating point as this relative error of the final latents allows.",
    ),
)
@shared.option_group(
    "Calibration",
    shared.prompts_option,
    cloup.option(
        "--pictures",
        type=AT_LEAST_1,
        default=16,
        help="Calibrate with this many pictures, and judge by as many others.",
    ),
    cloup.option(
        "--probed",
        type=AT_LEAST_1,
        default=4,
        help="Quantise each layer alone, and measure it with this many of the pictures.",
    ),
    cloup.option(
        "--refit/--no-refit",
        default=True,
        help="Fit the sampler's coefficients again, to the quantised denoiser.",
    ),
    shared.seed_option,
)
@shared.option_group("Running", shared.device_option)
@shared.output_options(
    cloup.option(
        "-o",
        "--out",
        type=PATH,
        required=True,
        help=f"Write the SubNet to this JSON file, and the quantisation plan beside it, ending in {SUFFIX}.",
    )
)
def command(
    pipeline: Path,
    subnet: Path,
    out: Path,
    precision: str,
    ranges: Ranges,
    smoothing: float | None,
    spans: int,
    kinds: Kinds,
    float_share: float | None,
    max_error: float | None,
    prompts: tuple[str, ...],
    pictures: int,
    probed: int,
    refit: bool,
    seed: int,
    device: str,
    as_json: bool,
) -> None:
    """Choose which layers of a SubNet to quantise.

    Calibrate the layers of its denoiser, choose those that must stay in floating point, and write the
    plan that export --precision mixed applies.
    """
    screen.quiet_libraries()
    from search.core.quantisation import scheme_named
    from search.core.subnet import SubNet
    from search.methods.prompts import default_prompts
    from search.model.opening import open_for, require_device
    from search.model.whole import full_of
    from search.quantise.recipe import QuantiseEffort, quantise

    if float_share is not None and max_error is not None:
        msg = "--float-share and --max-error both decide what stays in floating point; give one of them"
        raise click.UsageError(msg)
    require_device(device)
    with screen.status() as report:
        report("open pipeline")
        given = SubNet.load(subnet)
        opened = open_for(given, pipeline, weights=True, device=device)
        found = quantise(
            opened,
            full_of(opened, given),
            given,
            prompts or default_prompts(opened),
            scheme=scheme_named(precision),
            ranges=ranges,
            smoothing=smoothing,
            spans=spans,
            kinds=kinds,
            share=float_share,
            most=max_error,
            refit=refit,
            effort=QuantiseEffort(pictures, min(probed, pictures), seed),
            report=report,
        )
    plan = found.save(out)
    if as_json:
        click.echo(json.dumps({"subnet": str(out), "plan": str(plan), **found.to_json()}))
    else:
        click.echo(f"{out}, {plan}: {found.sentence()}")
