"""Train everything: `python -m examples.emoji.train`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
import torch

from examples.emoji.artwork import DEFAULT_PACKAGES, ArtworkError, read_artwork
from examples.emoji.autoencoding import train_autoencoder, train_decoder
from examples.emoji.distil import sample_paths, train_student
from examples.emoji.flow import cool_down, encode_latents, train_flow
from examples.emoji.judging import train_judge
from examples.emoji.text import train_text
from examples.emoji.trainer import DEFAULT_RUN
from examples.emoji.warm import begin_from

if TYPE_CHECKING:
    from collections.abc import Callable

STAGES: dict[str, Callable[..., None]] = {
    "judge": train_judge,
    "autoencoder": train_autoencoder,
    "latents": encode_latents,
    "text": train_text,
    "flow": train_flow,
    "decoder": train_decoder,
}


@click.command()
@click.option(
    "--stage", "stages", type=click.Choice(list(STAGES)), multiple=True, help="Only these."
)
@click.option(
    "--run",
    type=click.Path(path_type=Path),
    default=DEFAULT_RUN,
    show_default=True,
    help="Checkpoints; every stage goes on from its own.",
)
@click.option(
    "--packages",
    type=click.Path(path_type=Path),
    default=DEFAULT_PACKAGES,
    show_default=True,
    help="Folder of the installed npm packages.",
)
@click.option("--minutes", type=float, help="Stop each stage after these.")
@click.option(
    "--cooldown", type=int, help="Instead: so many steps from `flow` with a falling rate."
)
@click.option("--distil-steps", type=int, help="Instead: a student with so many steps.")
@click.option(
    "--warm", type=click.Path(path_type=Path), help="Begin RUN from this pipeline's weights."
)
@click.option("--threads", default=1, show_default=True)
def main(
    stages: tuple[str, ...],
    run: Path,
    packages: Path,
    minutes: float | None,
    cooldown: int | None,
    distil_steps: int | None,
    warm: Path | None,
    threads: int,
) -> None:
    """Train stage after stage; `flow` and `decoder` go on until they are stopped."""
    torch.set_num_threads(threads)
    try:
        artwork = read_artwork(packages)
        if warm is not None:
            begin_from(warm, artwork, run)
        todo = [STAGES[stage] for stage in stages or STAGES]
        if cooldown is not None:
            todo = [partial(cool_down, steps=cooldown)]
        if distil_steps is not None:
            todo = [partial(each, steps=distil_steps) for each in (sample_paths, train_student)]
        for stage in todo:
            stage(artwork, run, minutes=minutes)
    except ArtworkError as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
