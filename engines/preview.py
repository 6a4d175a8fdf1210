"""Approximate pictures of a run before it is done. No decoder."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from engines.errors import EngineError
from engines.pictures import save_sheet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from engines.generate import Progress
    from exporter.bundle import Bundle
    from search.core.sampler import SamplerTable

SHOWN = 10
"""Previews of a run, at most."""


def require_preview(bundle: Bundle) -> None:
    """Refuse a bundle that has no previews."""
    if bundle.preview is None:
        msg = (
            f"the bundle {str(bundle.path)!r} has no previews: it makes videos, its autoencoder allows none, or "
            "an older stepcarve wrote it; leave --preview out, or export again"
        )
        raise EngineError(msg)


@contextmanager
def preview_file(path: Path) -> Iterator[Callable[[Progress], None]]:
    """While open, what is given writes approximate pictures to a PNG file now and then; then it is removed."""

    def show(progress: Progress) -> None:
        every = -(-progress.calls // SHOWN)
        if (progress.call + 1) % every == 0 and (images := progress.preview()) is not None:
            save_sheet(images, path)

    try:
        yield show
    finally:
        path.unlink(missing_ok=True)


def expected_rows(sampler: SamplerTable, made: Sequence[int | None]) -> NDArray[np.float64]:
    """Per call, the coefficients of the final latents if all later predictions equal the last one.

    For DDIM with noise predictions, and for Euler, these are the clean latents that the last prediction stands
    for; for others they are close to them. Noises that are yet to be drawn count as 0.

    Args:
        sampler: of the run.
        made: the number of the prediction that each call makes, or None.

    Returns:
        `[calls, known + predictions]`; zeros as long as nothing was predicted.
    """
    known = sampler.known
    rows = np.zeros((len(made), sampler.final.size))
    is_made = np.zeros(sampler.predictions, bool)
    last: int | None = None
    for number, prediction in enumerate(made):
        if prediction is not None:
            last, is_made[prediction] = prediction, True
        if last is None:
            continue
        is_used = sampler.inputs[: number + 1, :known].any(axis=0)
        rows[number, :known] = sampler.final[:known] * is_used
        rows[number, known:] = sampler.final[known:] * is_made
        rows[number, known + last] += sampler.final[known:][~is_made].sum()
    return rows


def pictures_of(bundle: Bundle, latents: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Pictures `[B, height, width, 3]` of latents, by the bundle's matrix from latents to colours."""
    require_preview(bundle)
    from PIL import Image

    grid = _in_place(bundle, latents)
    matrix = np.asarray(bundle.preview, np.float32)
    colours = np.einsum("oc,bchw->bhwo", matrix[:, :-1], grid) + matrix[:, -1]
    pixels = np.rint(np.clip(colours, 0, 1) * 255).astype(np.uint8)
    size = bundle.shape.width, bundle.shape.height
    resized = [Image.fromarray(each).resize(size, Image.Resampling.BILINEAR) for each in pixels]
    return np.stack([np.asarray(each) for each in resized])


def _in_place(bundle: Bundle, latents: NDArray[np.float32]) -> NDArray[np.float32]:
    """Latents as the pipeline packs them, unpacked to `[B, C, H, W]`."""
    count, *_, height, width = bundle.noise_shape
    if bundle.layout is None:
        return latents.reshape(count, -1, height, width)
    order = np.load(bundle.path / bundle.layout, allow_pickle=False)
    unpacked = np.empty_like(latents, shape=latents.size)
    unpacked[order] = latents.ravel()
    return unpacked.reshape(count, -1, height, width)
