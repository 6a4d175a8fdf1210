"""`stepcarve import`: read what another project published."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click
import cloup

from search.commands import screen, shared
from search.commands.values import AT_LEAST_1, NUMBER, PATH, PipelineDirectory
from search.foreign.formats import FORMATS

if TYPE_CHECKING:
    from pathlib import Path


@shared.command("import")
@cloup.argument("source", type=PATH)
@shared.option_group(
    "Source",
    cloup.option(
        "--format",
        "format_name",
        type=click.Choice(FORMATS),
        required=True,
        help="Format of SOURCE.",
    ),
    cloup.option(
        "--pipeline",
        type=PipelineDirectory(),
        required=True,
        help="Make the SubNet for this pipeline.",
    ),
    cloup.option(
        "--threshold",
        type=NUMBER,
        help="For learning-to-cache: compute a layer where its router score is above this.  [default: "
        "0.1]",
    ),
)
@shared.option_group(
    "Full sampler",
    cloup.option(
        "--steps",
        type=AT_LEAST_1,
        help="Number of inference steps; for timesteps and sigmas, of the sampler that they replace.  "
        "[default: as many as SOURCE has, or the pipeline's own]",
    ),
    shared.scheduler_option,
    shared.scheduler_options_option,
    shared.guidance_option,
    shared.height_option,
    shared.width_option,
)
@shared.output_options(shared.subnet_out_option())
def command(
    source: Path,
    out: Path,
    format_name: str,
    pipeline: Path,
    steps: int | None,
    scheduler: str | None,
    scheduler_options: tuple[tuple[str, Any], ...],
    threshold: float | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Turn another project's schedule into a SubNet.

    SOURCE is a file that the project published, such as a table of cached blocks or a list of timesteps.
    docs/formats.md describes every format and names its source.
    """
    screen.quiet_libraries()
    from search.core.summary import one_line, summarise
    from search.foreign.importers import read_foreign
    from search.methods.options import Options
    from search.model.opening import open_asked

    foreign = read_foreign(source, format_name, threshold)
    count = foreign.steps if steps is None else steps
    chosen = Options(steps=count, **options)
    with screen.status() as report:
        report("open pipeline")
        opened = open_asked(
            pipeline, scheduler=scheduler, scheduler_options=scheduler_options, weights=False
        )
        report(f"import: {format_name}")
        subnet = foreign.subnet(opened, chosen)
        subnet.save(out)
    summary = summarise(subnet)
    click.echo(json.dumps(summary) if as_json else f"{out}: {one_line(summary)}")
