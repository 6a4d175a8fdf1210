"""`stepcarve triton`: a bundle as a model of Triton Inference Server."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click
import cloup

from engines.commands.shared import engine_options
from exporter.commands.shared import SIZE_OPTIONS, bundle_argument
from search.commands import screen, shared
from search.commands.values import AT_LEAST_1, PATH

if TYPE_CHECKING:
    from pathlib import Path

    from engines.base import EngineOptions


@shared.command("triton")
@bundle_argument
@shared.option_group(
    "Model",
    cloup.option("--name", help="Name of the model.  [default: that of the bundle's directory]"),
    *SIZE_OPTIONS,
    cloup.option(
        "--instances",
        type=AT_LEAST_1,
        default=1,
        help="Load the bundle in this many processes, or with --device cuda, in this many on each GPU.",
    ),
)
@engine_options()
@shared.output_options(
    cloup.option(
        "-o",
        "--out",
        type=PATH,
        required=True,
        help="Add the model to this model repository, a directory, which is created if it is missing.",
    )
)
def command(
    bundle: Path,
    name: str | None,
    height: int | None,
    width: int | None,
    instances: int,
    engine_name: str,
    device: str,
    options: EngineOptions,
    out: Path,
    as_json: bool,
) -> None:
    """Write a bundle as a model for Triton Inference Server.

    The model runs in Triton's Python backend. It makes pictures of one size, as many at once as the bundle
    has variants for.
    """
    from engines.triton.repository import TritonModel, write_model
    from exporter.bundle import Bundle

    opened = Bundle.open(bundle, height=height, width=width)
    called = name or bundle.resolve().name
    model = TritonModel(called, engine_name, device, options, instances)
    with screen.status() as report:
        report("copy the bundle")
        place = write_model(opened, model, out)
    if as_json:
        click.echo(json.dumps({"model": called, "path": str(place)}))
    else:
        click.echo(f"{place}; serve it with tritonserver --model-repository {out}")
