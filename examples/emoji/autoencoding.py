"""Train the autoencoder, whole and then its decoder alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from examples.emoji import models
from examples.emoji.pictures import choose, compose, trained_items
from examples.emoji.precision import products
from examples.emoji.trainer import Course, Trainer, load_average

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from examples.emoji.artwork import Artwork

BATCH = 16
KL_WEIGHT = 1e-5
WHOLE = Course(rate=2e-3, steps=1500, cooldown=400, average=0.99)
DECODER = Course(rate=1e-3, steps=100_000, average=0.998)


def to_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    """Pictures `[N, 64, 64, 3]` uint8 as `[N, 3, 64, 64]` float32 in -1..1."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def train_autoencoder(artwork: Artwork, run: Path, *, minutes: float | None) -> None:
    """Train encoder and decoder together; the latents are settled when this ends."""
    vae: Any = models.autoencoder().to(memory_format=torch.channels_last)
    trainer = Trainer("autoencoder", vae, WHOLE, run)
    items = trained_items(len(artwork.names))

    def loss() -> Tensor:
        images = to_tensor(compose(artwork, choose(items, BATCH, trainer.rng), trainer.rng))
        with products():
            posterior = vae.encode(images).latent_dist
            output = vae.decode(posterior.sample()).sample
        divergence = posterior.kl().float().mean() / posterior.mean[0].numel()
        error: Tensor = reconstruction(output.float(), images) + KL_WEIGHT * divergence
        return error

    trainer.fit(loss, minutes=minutes)


def reconstruction(output: Tensor, images: Tensor) -> Tensor:
    """Absolute and squared error of pictures in -1..1."""
    error = output - images
    return error.abs().mean() + 2 * error.square().mean()


def train_decoder(artwork: Artwork, run: Path, *, minutes: float | None) -> None:
    """Train the decoder on, from latents that stay as they are."""
    vae: Any = models.autoencoder()
    if not (run / "decoder.safetensors").exists():
        load_average("autoencoder", vae, run)
    vae.to(memory_format=torch.channels_last)
    vae.encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)
    trainer = Trainer("decoder", vae, DECODER, run, seed=5)
    items = trained_items(len(artwork.names))

    def loss() -> Tensor:
        images = to_tensor(compose(artwork, choose(items, BATCH, trainer.rng), trainer.rng))
        with products():
            with torch.no_grad():
                latents = vae.encode(images).latent_dist.mean
            output = vae.decode(latents).sample
        return reconstruction(output.float(), images)

    trainer.fit(loss, minutes=minutes)
