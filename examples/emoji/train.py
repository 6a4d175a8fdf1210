"""Train everything: `python -m examples.emoji.train`."""

from __future__ import annotations

from pathlib import Path

import click
import torch

from examples.emoji.artwork import DEFAULT_PACKAGES, read_artwork
from examples.emoji.autoencoding import train_autoencoder, train_decoder
from examples.emoji.flow import encode_latents, train_flow
from examples.emoji.judging import train_judge
from examples.emoji.text import train_text

DEFAULT_RUN = Path.home() / ".cache" / "stepcarve" / "emoji" / "run"
STAGES = {
    "autoencoder": train_autoencoder,
    "latents": encode_latents,
    "text": train_text,
    "flow": train_flow,
    "decoder": train_decoder,
    "judge": train_judge,
}


@click.command()
@click.option("--stage", "stages", type=click.Choice(list(STAGES)), multiple=True)
@click.option("--run", type=click.Path(path_type=Path), default=DEFAULT_RUN, show_default=True)
@click.option(
    "--packages", type=click.Path(path_type=Path), default=DEFAULT_PACKAGES, show_default=True
)
@click.option("--minutes", type=float, help="Stop after these and leave the checkpoint.")
@click.option("--threads", default=1, show_default=True)
def main(
    stages: tuple[str, ...], run: Path, packages: Path, minutes: float | None, threads: int
) -> None:
    """Train stages, each on from its checkpoint in RUN."""
    torch.set_num_threads(threads)
    for stage in stages:
        STAGES[stage](read_artwork(packages), run, minutes=minutes)


if __name__ == "__main__":
    main()
