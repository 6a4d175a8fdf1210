"""`stepcarve convert`: a single-file checkpoint as a pipeline directory."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click
import cloup

from search.commands import screen, shared
from search.commands.values import PATH, PipelineDirectory

if TYPE_CHECKING:
    from pathlib import Path


@shared.command("convert")
@cloup.argument("checkpoint", type=PATH)
@shared.option_group(
    "Source",
    cloup.option(
        "--config",
        type=PipelineDirectory(),
        required=True,
        help="Take configurations, tokenizers and the parts that CHECKPOINT lacks from this pipeline "
        "directory; it needs no other weights.",
    ),
)
@shared.output_options(
    cloup.option(
        "-o", "--out", type=PATH, required=True, help="Write the pipeline to this new directory."
    )
)
def command(checkpoint: Path, config: Path, out: Path, as_json: bool) -> None:
    """Write a single-file checkpoint as a pipeline directory.

    Every command takes such a directory. Nothing is downloaded.
    """
    screen.quiet_libraries()
    from search.core.files import require_free
    from search.model.single_file import convert

    require_free(out)
    with screen.status() as report:
        report("convert")
        made = convert(checkpoint, config, out)
    if as_json:
        click.echo(json.dumps({"pipeline": str(out), "class": made}))
    else:
        click.echo(f"{out}: a {made}")
