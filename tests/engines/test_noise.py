"""Noise without torch is torch's noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engines.noise import TorchNoise, noise_of


@pytest.mark.parametrize("shape", [(1, 4, 16, 16), (2, 4, 12, 12), (1, 3, 5, 7), (1, 1, 3, 6)])
@pytest.mark.parametrize("seed", [0, 42, 2**31 + 5, 123_456_789_012])
def test_a_seed_gives_torchs_numbers(shape: tuple[int, ...], seed: int) -> None:
    expected = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    np.testing.assert_allclose(
        TorchNoise(seed).randn(shape), expected.numpy(), rtol=1e-5, atol=3e-6
    )


def test_what_is_drawn_next_is_torchs_too() -> None:
    """Whatever is left over of a group of 16 each time."""
    theirs, ours = torch.Generator().manual_seed(7), TorchNoise(7)
    for shape in ((1, 3, 5, 7), (1, 4, 8, 8), (1, 1, 3, 6), (2, 6, 5), (1, 4, 8, 8)):
        expected = torch.randn(shape, generator=theirs)
        np.testing.assert_allclose(ours.randn(shape), expected.numpy(), rtol=1e-5, atol=3e-6)


def test_another_seed_gives_other_numbers() -> None:
    assert np.abs(TorchNoise(1).randn((1, 4, 8, 8)) - TorchNoise(2).randn((1, 4, 8, 8))).max() > 1


def test_too_few_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="fewer than 16 elements"):
        TorchNoise(0).randn((1, 1, 3, 3))


def test_each_picture_of_a_batch_has_its_seed() -> None:
    """As `diffusers.utils.torch_utils.randn_tensor` draws from a list of generators."""
    from diffusers.utils.torch_utils import randn_tensor

    generators = [torch.Generator().manual_seed(seed) for seed in (3, 8)]
    source = noise_of((3, 8))
    for _ in range(2):
        expected = randn_tensor((2, 4, 3, 3), generator=generators)
        np.testing.assert_allclose(
            source.randn((2, 4, 3, 3)), expected.numpy(), rtol=1e-5, atol=3e-6
        )
    np.testing.assert_array_equal(noise_of(3).randn((1, 16)), TorchNoise(3).randn((1, 16)))
