"""The matrix from latents to colours that `run --preview` shows, fitted by least squares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from diffusers.image_processor import VaeImageProcessor
from torch import Tensor, nn

from search.model.decoder import Decoder

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from search.model.pipeline import Pipeline

PICTURES = 8
"""That are encoded."""
SIDE = 128
"""Of these, in pixels, unless the bundle's are smaller."""
CELLS = (1, 2, 4, 8)
"""Sides of the grids of random colours that they are sums of."""
EXACT = 1e-3
"""Relative error of an affine map that is one, but for rounding."""


class _NoPreviewError(Exception):
    """Says why there is no such matrix."""


def fit_preview(
    pipeline: Pipeline,
    noise_shape: tuple[int, ...],
    latent_shape: tuple[int, ...],
    layout: tuple[int, ...] | None,
    report: Callable[[str], None] = lambda _: None,
) -> list[list[float]] | None:
    """Rows for red, green and blue: a coefficient per channel of the latents, and a constant.

    The autoencoder encodes pictures of random colours; the matrix is the best guess of a place's mean colour
    from its latents. What the autoencoder makes is not what the loop computes with (it is scaled, and may be
    packed), so that affine map is fitted too, on random latents.

    Args:
        pipeline: with its autoencoder loaded.
        noise_shape: of the noise of one picture, `[C, H, W]`, or with an axis of 1 more.
        latent_shape: of its latents, as the pipeline packs them.
        layout: per element of the latents of all pictures, which element of the drawn noise it is;
            None: its own.
        report: called with the reason if there is no such matrix.

    Returns:
        None for videos, and where latents are no affine map of what the autoencoder makes of the same place.
    """
    try:
        size = pipeline.size(noise_shape)
        cell = _cell(size, noise_shape)
        decoder = Decoder(pipeline, size)
        decoded, to_latents = _to_latents(decoder, noise_shape, latent_shape, layout)
        pictures = _pictures(max(1, min(SIDE, *size) // cell) * cell)
        encoded = _encoded(pipeline.pipe, pictures, like=decoded)
        places = _places(encoded, pictures.shape[-1] // cell)
    except _NoPreviewError as reason:
        report(f"no preview: {reason}")
        return None
    colours = nn.functional.avg_pool2d(pictures, cell).permute(0, 2, 3, 1).reshape(-1, 3)
    matrix, _ = _fitted(_with_one(places) @ to_latents, colours.numpy())
    return [[float(value) for value in row] for row in matrix.T]


def _cell(size: tuple[int, ...], noise_shape: tuple[int, ...]) -> int:
    """The side in pixels of the square that one place of the latents stands for."""
    if len(size) != 2 or len(noise_shape) < 3:
        msg = "the latents are not those of one picture"
        raise _NoPreviewError(msg)
    height, width = noise_shape[-2:]
    cell = size[0] // height
    if (height * cell, width * cell) != size:
        msg = f"latents of {height} x {width} do not divide a picture of {size[0]} x {size[1]}"
        raise _NoPreviewError(msg)
    return cell


def _to_latents(
    decoder: Decoder,
    shape: tuple[int, ...],
    latent_shape: tuple[int, ...],
    layout: tuple[int, ...] | None,
) -> tuple[Tensor, NDArray[np.float32]]:
    """What the autoencoder is given for random latents, and the affine map from there to latents."""
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    # Of several pictures, the first one's elements come first.
    latents = drawn if layout is None else drawn.flatten()[list(layout[: drawn.numel()])]
    decoded = decoder.given(latents.reshape(1, *latent_shape))
    if decoded is None or not hasattr(getattr(decoder, "vae", None), "encode"):
        msg = "the pipeline has no autoencoder that both encodes and decodes"
        raise _NoPreviewError(msg)
    matrix, error = _fitted(
        _places(decoded, shape[-2]), drawn.reshape(-1, shape[-2] * shape[-1]).T.numpy()
    )
    if error > EXACT:
        msg = f"the latents are no affine map of the autoencoder's (relative error {error:.1g})"
        raise _NoPreviewError(msg)
    return decoded, matrix


def _places(values: Tensor, rows: int) -> NDArray[np.float32]:
    """Values of an autoencoder, `[B, C, H, W]` or `[B, C, 1, H, W]`, a row for each place of a grid of `rows`."""
    flat = values.float().reshape(values.shape[0], -1, *values.shape[-2:])
    if flat.shape[-2] % rows:
        msg = f"the autoencoder's latents have {flat.shape[-2]} rows, the pipeline's {rows}"
        raise _NoPreviewError(msg)
    patched = nn.functional.pixel_unshuffle(flat, flat.shape[-2] // rows)
    made: NDArray[np.float32] = patched.permute(0, 2, 3, 1).flatten(0, 2).numpy()
    return made


def _with_one(terms: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.concatenate([terms, np.ones_like(terms[:, :1])], axis=1)


def _fitted(
    terms: NDArray[np.float32], wanted: NDArray[np.float32]
) -> tuple[NDArray[np.float32], float]:
    """The affine map from rows to rows, and its relative error."""
    matrix = np.linalg.lstsq(_with_one(terms), wanted, rcond=None)[0]
    rest = np.linalg.norm(_with_one(terms) @ matrix - wanted)
    return matrix, float(rest / np.linalg.norm(wanted))


def _encoded(pipe: Any, pictures: Tensor, *, like: Tensor) -> Tensor:
    """What the autoencoder makes of pictures `[B, 3, H, W]` in 0..1, with as many axes as `like`."""
    processor = getattr(pipe, "image_processor", None) or VaeImageProcessor()
    given = processor.normalize(pictures)
    try:
        with torch.no_grad():
            made = pipe.vae.encode(given.unsqueeze(2) if like.ndim == 5 else given)
    except Exception as error:  # diffusers raises whatever its code runs into
        msg = f"the autoencoder does not encode: {type(error).__name__}: {error}"
        raise _NoPreviewError(msg) from error
    return cast("Tensor", made.latent_dist.mode() if "latent_dist" in made else made[0])


def _pictures(side: int) -> Tensor:
    """Square pictures `[B, 3, side, side]` in 0..1: sums of grids of random colours, half of them soft."""
    generator = torch.Generator().manual_seed(1)
    fields = torch.zeros(PICTURES, 3, side, side)
    for cells in CELLS:
        coarse = torch.randn(PICTURES, 3, cells, cells, generator=generator)
        sharp, soft = coarse[: PICTURES // 2], coarse[PICTURES // 2 :]
        resize = nn.functional.interpolate
        fields += torch.cat([resize(sharp, side), resize(soft, side, mode="bilinear")])
    return torch.sigmoid(fields)
