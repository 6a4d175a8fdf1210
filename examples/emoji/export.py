"""Write what was trained as a pipeline directory of diffusers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from diffusers import StableDiffusion3Pipeline

from examples.emoji import models
from examples.emoji.flow import Flow, read_latents
from examples.emoji.text import Text, make_tokenizer
from examples.emoji.trainer import load_average

if TYPE_CHECKING:
    from pathlib import Path

    from examples.emoji.artwork import Artwork

PRECISION = torch.float16


def export_pipeline(artwork: Artwork, run: Path, folder: Path, *, stage: str = "flow") -> None:
    """Write the averaged weights of `stage` to `folder`, in half precision."""
    tokens, latents = make_tokenizer(artwork), read_latents(run)
    net = load_average(stage, Flow(Text(tokens)), run)
    vae: Any = load_average("decoder", models.autoencoder(), run)
    vae.register_to_config(scaling_factor=latents.scale, shift_factor=latents.shift)
    first, second = net.text.encoders
    StableDiffusion3Pipeline(
        transformer=net.transformer.to(PRECISION),
        scheduler=models.scheduler(),
        vae=vae.to(PRECISION),
        text_encoder=first.to(PRECISION),
        tokenizer=tokens,
        text_encoder_2=second.to(PRECISION),
        tokenizer_2=tokens,
        text_encoder_3=None,
        tokenizer_3=None,
    ).save_pretrained(folder)
