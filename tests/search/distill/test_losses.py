"""Distances of features and predictions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from search.distill.losses import feature_loss, observed, prediction_loss
from search.distill.recipe import Loss

GENERATOR = torch.Generator().manual_seed(0)
THEIRS = {"small": [torch.randn(2, 5, generator=GENERATOR)], "large": [torch.ones(2, 3)]}
MINE = {name: [tensor * 1.5 for tensor in tensors] for name, tensors in THEIRS.items()}


def scaled(features: dict[str, list[Tensor]], factor: float) -> dict[str, list[Tensor]]:
    return {"small": features["small"], "large": [factor * features["large"][0]]}


def test_normalized_is_relative_to_the_teachers_norm() -> None:
    assert feature_loss(Loss.NORMALIZED, THEIRS, MINE).item() == pytest.approx(2 * 0.25)


@pytest.mark.parametrize(("loss", "equal"), [(Loss.NORMALIZED, True), (Loss.PLAIN, False)])
def test_only_plain_is_ruled_by_large_features(loss: Loss, equal: bool) -> None:
    before = feature_loss(loss, THEIRS, MINE)
    after = feature_loss(loss, scaled(THEIRS, 100), scaled(MINE, 100))
    assert (before.item() == pytest.approx(after.item())) is equal


def test_plain_sums_mean_squares() -> None:
    expected = sum(0.25 * tensors[0].square().mean() for tensors in THEIRS.values())
    assert feature_loss(Loss.PLAIN, THEIRS, MINE).item() == pytest.approx(float(expected))


def test_no_gradient_goes_through_the_teacher_or_its_norm() -> None:
    theirs = torch.randn(2, 3, generator=GENERATOR).requires_grad_()
    mine = torch.randn(2, 3, generator=GENERATOR).requires_grad_()
    feature_loss(Loss.NORMALIZED, {"a": [theirs]}, {"a": [mine]}).backward()  # type: ignore[no-untyped-call]
    assert theirs.grad is None
    assert mine.grad is not None


def test_each_picture_has_its_weight() -> None:
    mine, wanted = torch.zeros(2, 4), torch.stack([torch.ones(4), torch.full((4,), 2.0)])
    assert prediction_loss(mine, wanted, torch.tensor([3.0, 0.5])).item() == pytest.approx(2.5)


def test_features_are_those_of_the_last_call_and_hooks_go_away() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU())
    with observed(net, ["0"]) as features:
        net(torch.zeros(1, 2))
        net(torch.ones(4, 2))
        assert features["0"][0].shape == (4, 3)
    features.clear()
    net(torch.ones(4, 2))
    assert not features
