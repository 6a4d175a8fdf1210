"""The matrix from latents to colours, with autoencoders that make colours of latents exactly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline
from torch import nn

from benchmarks.families.image import TOYS
from exporter.preview import fit_preview
from search.model.opening import open_pipeline
from search.model.pipeline import Pipeline

MIXED = torch.tensor([[2.0, 1, 0], [0, -1, 3], [1, 1, 1], [0.5, 0, 2]])
"""From colours in -1..1 to the four channels of a made-up autoencoder."""


class Encoded(dict):  # type: ignore[type-arg]
    """An output of diffusers, by name and by attribute."""

    __getattr__ = dict.__getitem__


def encode(pictures: torch.Tensor) -> torch.Tensor:
    """The mean colour of each square of 2 x 2, mixed."""
    return torch.einsum("co,bohw->bchw", MIXED, nn.functional.avg_pool2d(pictures, 2))


def fitted(opened: Pipeline, size: tuple[int, int]) -> tuple[Any, list[str]]:
    body, told = opened.body(size), []  # type: ignore[var-annotated]
    noise, latent = tuple(body.drawn[1:]), tuple(body.latent_shape)
    return fit_preview(opened, noise, latent, body.layout(), told.append), told


@pytest.fixture
def flux(tmp_path: Path) -> Pipeline:
    """Its latents are packed, shifted and scaled."""
    (toy,) = (toy for toy in TOYS if toy.cls == "FluxPipeline")
    toy.build().save_pretrained(tmp_path / "flux")
    opened = open_pipeline(tmp_path / "flux", weights=False)
    opened.use_call({"max_sequence_length": 24})
    opened.load_around()
    opened.pipe.vae.register_to_config(scaling_factor=0.5, shift_factor=0.2)
    opened.pipe.vae.encode = lambda pictures: Encoded(
        latent_dist=SimpleNamespace(mode=lambda: encode(pictures))
    )
    return opened


def test_packed_latents_give_the_colours(flux: Pipeline) -> None:
    matrix, told = fitted(flux, (32, 32))
    assert told == []
    picture = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    latents = (encode(2 * picture - 1) - 0.2) * 0.5
    packed = FluxPipeline._pack_latents(latents, 1, 4, 16, 16)
    layout = flux.body((32, 32)).layout()
    assert layout is not None
    places = torch.empty(4 * 16 * 16)
    places[list(layout)] = packed.flatten()
    colours = torch.tensor(matrix) @ torch.cat([places.reshape(4, -1), torch.ones(1, 256)])
    expected = nn.functional.avg_pool2d(picture, 2).reshape(3, -1)
    torch.testing.assert_close(colours, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (lambda vae: setattr(vae, "encode", lambda _: 1 / 0), "does not encode: ZeroDivisionError"),
        (lambda vae: vae.register_to_config(scaling_factor=1e30), "no affine map"),
    ],
)
def test_what_cannot_be_fitted_is_told(
    flux: Pipeline, broken: Callable[[Any], object], reason: str
) -> None:
    broken(flux.pipe.vae)
    matrix, (told,) = fitted(flux, (32, 32))
    assert matrix is None
    assert told.startswith("no preview: ")
    assert reason in told


def rectangles(count: int) -> torch.Tensor:
    """Pictures of one rectangle each."""
    generator = torch.Generator().manual_seed(5)
    pictures = torch.rand(count, 3, 1, 1, generator=generator).expand(count, 3, 64, 64).clone()
    for picture in pictures:
        top, left = torch.randint(0, 32, (2,), generator=generator)
        colour = torch.rand(3, 1, 1, generator=generator)
        picture[:, top : top + 30, left : left + 20] = colour
    return pictures


def test_the_shipped_pipeline_shows_drawn_pictures(pipelines: Callable[[str], Path]) -> None:
    """Its own encoder makes the latents, as diffusers scales them."""
    opened = open_pipeline(pipelines("shapes-sd"), weights=False)
    matrix, told = fitted(opened, (64, 64))
    assert told == []
    pictures, vae = rectangles(12), opened.pipe.vae
    with torch.no_grad():
        latents = vae.encode(2 * pictures - 1).latent_dist.mode() * vae.config.scaling_factor
    terms = torch.cat([latents, torch.ones_like(latents[:, :1])], dim=1)
    colours = torch.einsum("oc,bchw->bohw", torch.tensor(matrix), terms)
    expected = nn.functional.avg_pool2d(pictures, 64 // latents.shape[-1])
    for colour in range(3):
        found = np.corrcoef(colours[:, colour].flatten(), expected[:, colour].flatten())[0, 1]
        assert found > 0.75
    assert (colours - expected).square().mean() < 0.5 * expected.var()
