"""Latents that a scheduler is handed in another shape than the loop has them in."""

from __future__ import annotations

import pytest
import torch

from search.model.folding import folding_of

DRAWN = (1, 4, 3, 2, 5)


def numbered(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.arange(torch.Size(shape).numel(), dtype=torch.float32).reshape(shape)


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_frames_in_the_batch_are_put_back(scale: float) -> None:
    noise = numbered(DRAWN)
    handed = scale * noise.permute(0, 2, 1, 3, 4).reshape(3, 4, 2, 5)
    folding = folding_of(handed, DRAWN, pictures=1)
    assert folding is not None
    prediction = torch.randn(DRAWN)
    folded = prediction.permute(0, 2, 1, 3, 4).reshape(3, 4, 2, 5)
    assert torch.equal(folding.undone(folded), prediction)
    assert torch.equal(folding.done(prediction), folded)


@pytest.mark.parametrize(
    "handed",
    [
        numbered(DRAWN),  # one row per picture
        torch.cat([numbered(DRAWN)] * 2),  # both halves of a batch
        numbered(DRAWN).flatten().flip(0).reshape(3, 4, 2, 5),  # more than permuted
    ],
)
def test_anything_else_is_left_as_it_is(handed: torch.Tensor) -> None:
    assert folding_of(handed, DRAWN, pictures=1) is None


def test_latents_that_are_permuted_behind_their_preparation_are_put_back() -> None:
    handed = numbered(DRAWN).permute(0, 2, 1, 3, 4)
    assert folding_of(handed, DRAWN, 1, (1, 3, 4, 2, 5)) is None  # prepared as they are handed
    folding = folding_of(handed, DRAWN, 1, DRAWN)
    assert folding is not None
    assert torch.equal(folding.undone(handed), numbered(DRAWN))
    assert torch.equal(folding.done(numbered(DRAWN)), handed)
