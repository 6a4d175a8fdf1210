"""`stepcarve distill`: take blocks out for good and retrain the rest."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click
import cloup

from search.commands import screen, shared
from search.commands.values import ABOVE_0, AT_LEAST_1, NOT_BELOW_0, PATH, SHARE, OneOf
from search.core.granularity import Granularity
from search.core.precision import denoiser_precisions
from search.distill.recipe import PRECISIONS, Loss

if TYPE_CHECKING:
    from pathlib import Path


@shared.command("distill")
@shared.pipeline_argument
@shared.subnet_argument
@shared.option_group(
    "Data",
    cloup.option(
        "--data",
        type=PATH,
        required=True,
        help="Train on the pictures and captions in this directory; docs/distill.md describes its layout.",
    ),
    cloup.option(
        "--drop",
        type=SHARE,
        default=0.1,
        help="Train on this fraction of the pictures without their captions.",
    ),
    cloup.option(
        "--batch", type=AT_LEAST_1, default=32, help="Pictures per batch, in each process."
    ),
)
@shared.option_group(
    "Loss",
    cloup.option(
        "--loss",
        type=OneOf(Loss),
        default=Loss.NORMALIZED.value,
        help="Compare features relative to their norm (normalized), as they are (plain), or not at all "
        "(output).",
    ),
    cloup.option(
        "--features",
        type=OneOf(Granularity),
        default=Granularity.LAYER.value,
        help="Compare the outputs of blocks of this granularity.",
    ),
    cloup.option(
        "--task-weight",
        type=NOT_BELOW_0,
        default=1.0,
        help="Weight of the error against the true noise.",
    ),
    cloup.option(
        "--output-weight",
        type=NOT_BELOW_0,
        default=1.0,
        help="Weight of the error against the teacher's prediction.",
    ),
    cloup.option(
        "--feature-weight",
        type=NOT_BELOW_0,
        default=1.0,
        help="Weight of the error against the teacher's features.",
    ),
)
@shared.option_group(
    "Optimiser",
    cloup.option(
        "--iterations", type=AT_LEAST_1, default=2000, help="Number of optimiser iterations."
    ),
    cloup.option(
        "--minutes",
        type=ABOVE_0,
        help="Limit the iterations to those that fit into this many minutes.",
    ),
    cloup.option(
        "--accumulate",
        type=AT_LEAST_1,
        default=1,
        help="Accumulate the gradients of this many batches per iteration.",
    ),
    cloup.option("--learning-rate", type=ABOVE_0, default=5e-4, help="Peak learning rate."),
    cloup.option(
        "--ema",
        type=SHARE,
        default=0.995,
        help="Decay of the exponential moving average of the weights.",
    ),
    cloup.option(
        "--precision",
        type=click.Choice(PRECISIONS),
        help="Compute in this precision while training (mixed precision); no is float32.  [default: that "
        "of --dtype]",
    ),
    shared.seed_option,
)
@shared.option_group(
    "Running",
    shared.device_option,
    cloup.option(
        "--dtype",
        type=click.Choice([each.name for each in denoiser_precisions()]),
        default="float32",
        help="Hold the teacher's weights in this floating-point type and compute in it; the student's "
        "weights and all losses stay float32.",
    ),
    cloup.option(
        "--run",
        "folder",
        type=PATH,
        help="Keep the log and checkpoints in this directory.  [default: OUT.run]",
    ),
    cloup.option("--resume", is_flag=True, help="Continue the training in --run."),
    cloup.option(
        "--save-every", type=AT_LEAST_1, default=200, help="Write a checkpoint every N iterations."
    ),
)
@shared.output_options(
    cloup.option(
        "-o", "--out", type=PATH, required=True, help="Write the pipeline to this new directory."
    )
)
def command(
    pipeline: Path,
    subnet: Path,
    out: Path,
    data: Path,
    folder: Path | None,
    resume: bool,
    device: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Remove the blocks that SUBNET skips, and train the rest."""
    screen.quiet_libraries()
    from search.core.subnet import SubNet
    from search.distill.data import read_folder
    from search.distill.distill import distill as run
    from search.distill.recipe import DistillRecipe
    from search.model.opening import require_device

    if options["loss"] == Loss.OUTPUT:
        with_features = f"for --loss {Loss.NORMALIZED} and {Loss.PLAIN}"
        shared.refuse_unused(
            shared.given_options(), dict.fromkeys(("features", "feature-weight"), with_features)
        )
    recipe = DistillRecipe(**options)
    require_device(device)
    with screen.status() as report:
        done = run(
            pipeline,
            SubNet.load(subnet),
            read_folder(data),
            recipe,
            out,
            folder=folder or out.with_name(f"{out.name}.run"),
            resume=resume,
            device=device,
            report=report,
        )
    click.echo(json.dumps(done.to_json()) if as_json else f"{out}: {done.line()}")
