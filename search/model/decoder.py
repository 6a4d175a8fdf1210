"""Latents to pictures, as diffusers' image pipelines do it."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class Decoder(nn.Module):
    """The decoder of an autoencoder with what the pipelines do before and after it."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae.eval()
        self.scale: float = vae.config.scaling_factor
        self.shift: float = getattr(vae.config, "shift_factor", None) or 0.0

    def forward(self, latents: Tensor) -> Tensor:
        """Latents `[B, C, H, W]` -> pictures `[B, 3, height, width]` in 0..1."""
        decoded: Tensor = self.vae.decode(latents / self.scale + self.shift, return_dict=False)[0]
        return (decoded / 2 + 0.5).clamp(0, 1)
