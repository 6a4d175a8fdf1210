"""Noise without torch is torch's noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engines.noise import torch_randn


@pytest.mark.parametrize("shape", [(1, 4, 16, 16), (2, 4, 12, 12), (1, 3, 5, 7), (1, 1, 3, 6)])
@pytest.mark.parametrize("seed", [0, 42, 2**31 + 5, 123_456_789_012])
def test_a_seed_gives_torchs_numbers(shape: tuple[int, ...], seed: int) -> None:
    expected = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    np.testing.assert_allclose(torch_randn(shape, seed), expected.numpy(), rtol=1e-5, atol=3e-6)


def test_another_seed_gives_other_numbers() -> None:
    assert np.abs(torch_randn((1, 4, 8, 8), 1) - torch_randn((1, 4, 8, 8), 2)).max() > 1


def test_too_few_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="fewer than 16 elements"):
        torch_randn((1, 1, 3, 3), 0)
