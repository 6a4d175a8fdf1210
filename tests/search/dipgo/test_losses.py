"""Losses against values computed by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from search.core.errors import SearchError
from search.dipgo.losses import consistency_loss, loss_target, sparsity_loss, ssim
from search.dipgo.recipe import Consistency


def picture(seed: int, size: int = 16) -> Tensor:
    return torch.rand(1, 3, size, size, generator=torch.manual_seed(seed), dtype=torch.float64)


def ssim_by_hand(a: Tensor, b: Tensor) -> float:
    """Window by window, as in the definition."""
    at = torch.arange(-5, 6, dtype=torch.float64)
    bell = torch.exp(-(at[:, None] ** 2 + at[None, :] ** 2) / (2 * 1.5**2))
    window = bell / bell.sum()
    values = []
    for channel in range(3):
        for y in range(a.shape[2] - 10):
            for x in range(a.shape[3] - 10):
                p, q = (i[0, channel, y : y + 11, x : x + 11] for i in (a, b))
                m, n = (window * p).sum(), (window * q).sum()
                spread = (window * (p - m) ** 2).sum() + (window * (q - n) ** 2).sum()
                both = (window * (p - m) * (q - n)).sum()
                values.append(
                    (2 * m * n + 1e-4)
                    * (2 * both + 9e-4)
                    / ((m**2 + n**2 + 1e-4) * (spread + 9e-4))
                )
    return float(torch.stack(values).mean())


def test_ssim_is_that_of_the_definition() -> None:
    a = picture(0)
    b = (a + 0.3 * picture(1)).clamp(0, 1)
    assert float(ssim(a, b)) == pytest.approx(ssim_by_hand(a, b), abs=1e-7)
    assert float(ssim(a, b)) < 0.95


def test_ssim_of_a_picture_with_itself_is_one() -> None:
    assert float(ssim(picture(0), picture(0))) == pytest.approx(1)


def test_ssim_of_plain_pictures_knows_their_brightness_only() -> None:
    black, white = torch.zeros(1, 3, 11, 11), torch.ones(1, 3, 11, 11)
    assert float(ssim(black, white)) == pytest.approx(1e-4 / (1 + 1e-4))


def test_ssim_refuses_pictures_smaller_than_its_window() -> None:
    with pytest.raises(SearchError, match=r"11 x 11 pixels or more, but these have 10 x 10"):
        ssim(picture(0, 10), picture(1, 10))


def steps(seed: int) -> Tensor:
    return torch.randn(4, 2, 3, 12, 12, generator=torch.manual_seed(seed))


@pytest.mark.parametrize("kind", Consistency)
def test_consistency_of_a_run_with_itself_is_zero(kind: Consistency) -> None:
    target = loss_target(kind, steps(0), torch.sigmoid)
    assert float(consistency_loss(steps(0), target, torch.sigmoid)) == pytest.approx(0, abs=1e-6)
    assert float(consistency_loss(steps(1), target, torch.sigmoid)) > 0.1


def test_the_latent_loss_is_the_relative_squared_error() -> None:
    for kind in (Consistency.LATENT, Consistency.STEPS):
        target = loss_target(kind, steps(0), torch.sigmoid)
        assert float(consistency_loss(1.5 * steps(0), target, torch.sigmoid)) == pytest.approx(0.25)


@pytest.mark.parametrize("shape", [(9, 16), (3, 2, 6, 4)], ids=("packed", "video"))
@pytest.mark.parametrize("kind", [Consistency.LATENT, Consistency.STEPS])
def test_latents_of_other_ranks_have_the_same_loss(
    kind: Consistency, shape: tuple[int, ...]
) -> None:
    def loss(*, shape: tuple[int, ...]) -> float:
        found, full = (
            torch.randn(4, 2, 144, generator=torch.manual_seed(i)).reshape(4, 2, *shape)
            for i in (0, 1)
        )
        return float(consistency_loss(found, loss_target(kind, full, torch.sigmoid), torch.sigmoid))

    assert loss(shape=shape) == pytest.approx(loss(shape=(1, 12, 12)))


def test_only_the_loss_of_all_steps_sees_a_step_in_the_middle() -> None:
    bent = steps(0).clone()
    bent[2] *= 2
    final = loss_target(Consistency.LATENT, steps(0), torch.sigmoid)
    every = loss_target(Consistency.STEPS, steps(0), torch.sigmoid)
    assert float(consistency_loss(bent, final, torch.sigmoid)) == 0
    assert float(consistency_loss(bent, every, torch.sigmoid)) == pytest.approx(1 / 3)


def test_sparsity_is_one_when_everything_runs_and_halves_with_half_the_steps() -> None:
    costs = torch.tensor([[0.7, 0.0], [0.3, 0.0]])
    gates = torch.zeros(4, 2, 2)
    gates[..., 0] = 1
    assert float(sparsity_loss(gates, costs)) == pytest.approx(1)
    gates[2:] = torch.tensor([0.0, 1.0])
    assert float(sparsity_loss(gates, costs)) == pytest.approx(0.5)
