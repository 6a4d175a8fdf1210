"""Write what was trained as a pipeline directory of diffusers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click
import torch
from diffusers import StableDiffusion3Pipeline

from examples.emoji import models
from examples.emoji.flow import Flow, read_latents
from examples.emoji.text import make_tokenizer
from examples.emoji.trainer import load_average

if TYPE_CHECKING:
    from pathlib import Path

    from diffusers import FlowMatchEulerDiscreteScheduler

    from examples.emoji.artwork import Artwork

PRECISION = torch.float16


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
