"""`stepcarve inspect`: what a SubNet does at each step."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click
import cloup

from exporter.commands.shared import variant_options
from search.commands import shared
from search.commands.values import PATH

if TYPE_CHECKING:
    from pathlib import Path


@shared.command("inspect")
@cloup.argument("source", type=PATH)
@variant_options()
@shared.output_options(
    cloup.option("--image", type=PATH, help="Also draw the grid to this PNG, SVG or PDF file.")
)
def command(source: Path, image: Path | None, as_json: bool, **shape: int | None) -> None:
    """Show what a SubNet or bundle does at each step."""
    from exporter.bundle import Bundle
    from exporter.picture import draw_grid, grid_lines, save_figure
    from search.core.subnet import SubNet
    from search.core.summary import call_times, one_line, summarise

    if source.is_dir():
        bundle = Bundle.open(source, **shape)
        subnet = bundle.subnet
        summary = summarise(subnet, bundle.latent_shape[0], bundle.dtype)
    else:
        shared.refuse_unused(
            shared.given_options(),
            dict.fromkeys(
                ("height", "width", "num-images"), "for a bundle; a SubNet has one shape"
            ),
        )
        subnet = SubNet.load(source)
        summary = summarise(subnet)
    if image is not None:
        save_figure(draw_grid(subnet), image)
    if as_json:
        click.echo(json.dumps(summary))
        return
    click.echo("\n".join(grid_lines(subnet)))
    click.echo()
    click.echo(one_line(summary))
    if summary["fitted"]:
        click.echo(call_times(summary))
    if image is not None:
        click.echo(f"drawn to {image}")
