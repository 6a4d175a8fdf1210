"""Write what was trained to where it is committed: `python -m examples.emoji.export`."""

from __future__ import annotations

import csv
import json
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import torch
from diffusers import StableDiffusion3Pipeline

from examples.emoji import models
from examples.emoji.artwork import DEFAULT_PACKAGES, read_artwork
from examples.emoji.flow import START, Flow, read_latents
from examples.emoji.judging import export_judge, vocabulary
from examples.emoji.pictures import Items, captions, held_out_items, trained_items
from examples.emoji.text import make_tokenizer
from examples.emoji.trainer import DEFAULT_RUN, load_average, read_record

if TYPE_CHECKING:
    from diffusers import FlowMatchEulerDiscreteScheduler

    from examples.emoji.artwork import Artwork

HERE = Path(__file__).parent
PRECISION = torch.float16
RECORD = "run.json"
PROMPTS = "prompts.txt"
"""In the pipeline's directory: captions that it was trained with, for searches."""


def export_pipeline(
    artwork: Artwork,
    run: Path,
    folder: Path,
    *,
    stage: str,
    scheduler: FlowMatchEulerDiscreteScheduler,
) -> None:
    """Write the averaged weights of `stage` to `folder`, in half precision."""
    tokens, latents = make_tokenizer(artwork), read_latents(run)
    net = load_average(stage, Flow(tokens), run)
    decoder = "decoder" if (run / "decoder.safetensors").exists() else "autoencoder"
    click.echo(f"writing {stage} and {decoder} to {folder}")
    vae: Any = load_average(decoder, models.autoencoder(), run)
    vae.register_to_config(scaling_factor=latents.scale, shift_factor=latents.shift)
    first, second = net.text.encoders
    StableDiffusion3Pipeline(
        transformer=net.transformer.to(PRECISION),
        scheduler=scheduler,
        vae=vae.to(PRECISION),
        text_encoder=first.to(PRECISION),
        tokenizer=tokens,
        text_encoder_2=second.to(PRECISION),
        tokenizer_2=tokens,
        text_encoder_3=models.empty_t5().to(PRECISION),
        tokenizer_3=models.empty_t5_tokenizer(),
    ).save_pretrained(folder)
    for name in ("text_encoder", "text_encoder_2", "text_encoder_3"):
        _open_in_single_precision(folder / name / "config.json")


def _open_in_single_precision(config: Path) -> None:
    # diffusers opens its models in float32 whatever the files hold, transformers as `dtype` says.
    record = json.loads(config.read_text()) | {"dtype": "float32"}
    config.write_text(json.dumps(record, indent=2) + "\n")


def write_prompts(artwork: Artwork, items: Items, path: Path, *, count: int) -> None:
    """Write captions of some of the items."""
    chosen = np.random.default_rng(11).permutation(len(items))[:count]
    path.write_text("\n".join(captions(artwork, items[chosen])) + "\n")


def write_record(run: Path, folder: Path) -> None:
    """Write loss logs and how long each stage was trained; what `folder` says of other stages stays.

    Stages of a run that began from a pipeline's weights are called `NAME-on`.
    """
    file, on = folder / RECORD, "-on" if (run / f"{START}.safetensors").exists() else ""
    record: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    record |= {"processor": platform.processor() or platform.machine(), "torch": torch.__version__}
    for checkpoint in sorted(run.glob("*.safetensors")):
        found = read_record(checkpoint)
        if found is None:
            continue
        name = checkpoint.stem + on
        record[name] = {"steps": found["step"], "hours": round(found["seconds"] / 3600, 2)}
        rows = [(name, *row) for row in found["losses"]]
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"loss-{name}.csv").open("w", newline="") as log:
            csv.writer(log).writerows([("stage", "step", "loss"), *rows])
    file.write_text(json.dumps(record, indent=2) + "\n")


@click.command()
@click.option("-o", "--out", type=click.Path(path_type=Path), default=HERE, show_default=True)
@click.option("--run", type=click.Path(path_type=Path), default=DEFAULT_RUN, show_default=True)
@click.option(
    "--packages", type=click.Path(path_type=Path), default=DEFAULT_PACKAGES, show_default=True
)
@click.option("--stage", default="flow", show_default=True, help="Or cooled.")
@click.option("--distil-steps", type=int, help="Instead the student of so many steps.")
def main(out: Path, run: Path, packages: Path, stage: str, distil_steps: int | None) -> None:
    """Write the pipeline, the judge, captions and the record of the training in RUN to OUT."""
    artwork = read_artwork(packages)
    if distil_steps is not None:
        folder, name = out / f"emoji-{distil_steps}-steps", f"student-{distil_steps}"
        scheduler = models.student_scheduler()
    else:
        folder, name, scheduler = out / "emoji-sd3", stage, models.scheduler()
    export_pipeline(artwork, run, folder, stage=name, scheduler=scheduler)
    if (run / "judge.safetensors").exists():  # a run that began from a pipeline has none
        words = vocabulary(artwork)
        export_judge(load_average("judge", models.JudgeNet(words), run), words, out / "judge.onnx")
    count = len(artwork.names)
    write_prompts(artwork, held_out_items(count), out / "prompts.txt", count=512)
    write_prompts(artwork, trained_items(count), folder / PROMPTS, count=256)
    write_record(run, out / "training")


if __name__ == "__main__":
    main()
