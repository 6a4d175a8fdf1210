"""Approximate pictures of a run before it is done."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from engines.errors import EngineError
from engines.generate import Progress
from engines.preview import SHOWN, expected_rows, pictures_of, preview_file, require_preview
from search.core.sampler import SamplerTable
from search.core.timestep_grid import TimestepGrid
from search.model.scheduler import GridSettings, read_sampler


def along(scheduler: object, steps: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The clean latents that diffusers expects at each step, and those that the rows give."""
    table = read_sampler(scheduler, GridSettings(TimestepGrid(steps)))
    rows = expected_rows(table, range(steps))
    generator = torch.Generator().manual_seed(0)
    noise, *predictions = torch.randn(1 + steps, 2, 3, generator=generator)
    scheduler.set_timesteps(steps)  # type: ignore[attr-defined]
    sample, theirs = noise * scheduler.init_noise_sigma, []  # type: ignore[attr-defined]
    for timestep, prediction in zip(scheduler.timesteps, predictions, strict=True):  # type: ignore[attr-defined]
        scheduler.scale_model_input(sample, timestep)  # type: ignore[attr-defined]
        stepped = scheduler.step(prediction, timestep, sample)  # type: ignore[attr-defined]
        theirs.append(stepped.pred_original_sample.numpy())
        sample = stepped.prev_sample
    known = np.stack([noise.numpy(), *(p.numpy() for p in predictions)])
    return theirs, [np.tensordot(row, known, axes=1) for row in rows]


@pytest.mark.parametrize("name", ["DDIMScheduler", "EulerDiscreteScheduler"])
def test_the_expected_latents_are_those_of_diffusers(name: str) -> None:
    options = {"clip_sample": False} if name == "DDIMScheduler" else {}
    theirs, ours = along(getattr(diffusers, name)(**options), 7)
    for their, our in zip(theirs, ours, strict=True):
        np.testing.assert_allclose(our, their, rtol=1e-4, atol=1e-4)


def test_noises_that_are_not_drawn_yet_and_reused_predictions() -> None:
    """Three calls; the second makes no prediction, and the last reads a noise drawn before it."""
    inputs = np.array([[1, 0, 0, 0], [0.8, 0, 0.1, 0], [0.5, 0.3, 0.2, 0.0]])
    table = SamplerTable(inputs, np.array([0.4, 0.2, 3.0, 5.0]), noises=2)
    np.testing.assert_allclose(
        expected_rows(table, [0, None, 1]),
        [[0.4, 0, 8, 0], [0.4, 0, 8, 0], [0.4, 0.2, 3, 5]],
    )
    assert not expected_rows(table, [None, None, None]).any()


@pytest.fixture
def packed(tmp_path: Path) -> SimpleNamespace:
    """What `pictures_of` reads of a bundle whose latents are packed as tokens, channels last."""
    noise_shape = (2, 4, 2, 3)
    numbers = np.arange(np.prod(noise_shape), dtype=np.int32).reshape(noise_shape)
    np.save(tmp_path / "layout.npy", numbers.transpose(0, 2, 3, 1).ravel())
    matrix = ((1.0, 0, 0, 0, 0), (0, 1.0, 0, 0, 0), (0, 0, 0, 0, 0.5))
    shape = SimpleNamespace(width=12, height=8)
    return SimpleNamespace(
        path=tmp_path, layout="layout.npy", noise_shape=noise_shape, preview=matrix, shape=shape
    )


def test_packed_latents_are_put_in_place(packed: SimpleNamespace) -> None:
    latents = np.random.default_rng(0).uniform(0, 1, (2, 6, 4)).astype(np.float32)
    found = pictures_of(packed, latents)  # type: ignore[arg-type]
    assert (found.shape, found.dtype) == ((2, 8, 12, 3), np.uint8)
    middle = found.reshape(2, 2, 4, 3, 4, 3)[:, :, 1:3, :, 1:3].mean((2, 4))
    expected = latents.reshape(2, 2, 3, 4) * 255
    assert np.corrcoef(middle[..., 0].ravel(), expected[..., 0].ravel())[0, 1] > 0.97
    assert np.corrcoef(middle[..., 1].ravel(), expected[..., 1].ravel())[0, 1] > 0.97
    assert (found[..., 2] == 128).all()


def test_a_bundle_without_previews_is_refused(packed: SimpleNamespace) -> None:
    packed.preview = None
    with pytest.raises(EngineError, match="has no previews: it makes videos, its autoencoder"):
        require_preview(packed)  # type: ignore[arg-type]


@pytest.mark.parametrize(("calls", "shown"), [(3, 3), (10, 10), (25, 8)])
def test_the_file_is_written_now_and_then_and_removed(
    tmp_path: Path, calls: int, shown: int
) -> None:
    path, images = tmp_path / "x-preview.png", np.full((2, 4, 4, 3), 7, np.uint8)
    asked: list[int] = []
    with preview_file(path) as show:
        for call in range(calls):

            def preview(call: int = call) -> np.ndarray:
                asked.append(call)
                return images

            show(Progress("red", 0, 0, 1, call, calls, preview))
        with Image.open(path) as image:
            assert image.size == (32, 4)
    assert len(asked) == shown <= SHOWN
    assert not path.exists()


def test_the_file_is_removed_when_one_stops_the_run(tmp_path: Path) -> None:
    path, images = tmp_path / "x-preview.png", np.zeros((1, 4, 4, 3), np.uint8)

    def stopped() -> None:
        with preview_file(path) as show:
            show(Progress("red", 0, 0, 1, 9, 10, lambda: images))
            assert path.exists()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert not path.exists()
