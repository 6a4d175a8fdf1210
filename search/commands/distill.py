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
        help="Train on the pictures and captions in this folder; docs/distill.md says how it is laid out.",
    ),
    cloup.option(
        "--drop",
        type=SHARE,
        default=0.1,
        help="Train on this share of the pictures without their captions.",
    ),
    cloup.option("--batch", type=AT_LEAST_1, default=32, help="Pictures per batch and process."),
)
@shared.option_group(
    "Loss",
    cloup.option(
        "--loss",
        type=OneOf(Loss),
        default=Loss.NORMALIZED.value,
        help="Compare features relative to their norm, as they are, or not at all (output).",
    ),
    cloup.option(
        "--features",
        type=OneOf(Granularity),
        default=Granularity.LAYER.value,
        help="Compare the outputs of these blocks.",
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
    cloup.option("--iterations", type=AT_LEAST_1, default=2000, help="Steps of the optimiser."),
    cloup.option(
        "--minutes",
        type=ABOVE_0,
        help="Make only as many iterations as fit into this many minutes.",
    ),
    cloup.option("--accumulate", type=AT_LEAST_1, default=1, help="Batches per iteration."),
    cloup.option("--learning-rate", type=ABOVE_0, default=5e-4, help="Highest learning rate."),
    cloup.option("--ema", type=SHARE, default=0.995, help="Decay of the averaged weights."),
    cloup.option(
        "--precision",
        type=click.Choice(PRECISIONS),
        help="Train in mixed precision; no is float32.  [default: that of --dtype]",
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
        help="Hold the teacher's weights in this type and compute in it; the student's weights and all "
        "losses stay float32.",
    ),
    cloup.option(
        "--run",
        "folder",
        type=PATH,
        help="Keep the log and checkpoints in this directory.  [default: OUT.run]",
    ),
    cloup.option("--resume", is_flag=True, help="Continue the training in --run."),
    cloup.option("--save-every", type=AT_LEAST_1, default=200, help="Iterations per checkpoint."),
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
    from search.model.pipeline import require_device

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
