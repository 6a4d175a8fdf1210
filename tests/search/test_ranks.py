"""Sums over latents are the same in any shape: packed, of a picture, of a video."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from search.core.actions import RECORDS, Action
from search.distill.losses import feature_loss, prediction_loss
from search.distill.recipe import Loss
from search.laptop.loss import _halved
from search.laptop.noising import Noising
from search.supernet.chain import Checkpointed, StepChain
from search.supernet.gates import Carry, GatedStep

SHAPES = [(24,), (8, 3), (2, 3, 4), (2, 2, 2, 3)]
"""Of a picture's latents, 24 numbers each."""


def latents(seed: int, shape: tuple[int, ...], batch: int = 2) -> Tensor:
    return torch.randn(batch, 24, generator=torch.manual_seed(seed)).reshape(batch, *shape)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_noise_is_mixed_in(shape: tuple[int, ...]) -> None:
    noising = Noising.of(DDIMScheduler(prediction_type="v_prediction"))
    chosen = torch.tensor([10, 900])
    flat = noising.mix(chosen, latents(0, (24,)), latents(1, (24,)))
    found = noising.mix(chosen, latents(0, shape), latents(1, shape))
    for mine, expected in zip(found, flat, strict=True):
        torch.testing.assert_close(mine, expected.reshape(2, *shape))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_losses_of_distillation(shape: tuple[int, ...]) -> None:
    weights = torch.tensor([1.0, 3.0])

    def losses(shape: tuple[int, ...]) -> list[Tensor]:
        mine, theirs = latents(0, shape), latents(1, shape)
        features = ({"a": [theirs]}, {"a": [mine]})
        return [
            prediction_loss(mine, theirs, weights),
            *(feature_loss(loss, *features) for loss in (Loss.NORMALIZED, Loss.PLAIN)),
        ]

    torch.testing.assert_close(losses(shape), losses((24,)))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_halves_of_guidance(shape: tuple[int, ...]) -> None:
    both = latents(0, shape, batch=6)
    found = _halved(torch.stack([both, both + 1]), 1, 2)
    assert found.shape == (2, 2, 3, *shape)
    assert torch.equal(found[1, 1], both[3:] + 1)


CHOICES = (RECORDS[Action.RUN], RECORDS[Action.REUSE])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradients_through_the_chain_of_steps(shape: tuple[int, ...]) -> None:
    def call(number: int, sample: Tensor, now: GatedStep) -> tuple[Tensor, Carry]:
        now.emit(0, 0, torch.tanh(sample + number), None, CHOICES)
        return now.outputs[0], now.carry(1)

    def gradient(shape: tuple[int, ...]) -> Tensor:
        rows = [[1.0, 0, 0, 0], [0.8, -0.3, 0, 0], [0.5, 0.2, -0.4, 0]]
        gates = torch.tensor([[[1.0, 0.0]], [[0.7, 0.3]], [[0.4, 0.6]]], requires_grad=True)
        weights = gates.detach().tolist()
        chain = StepChain(call, latents(0, shape), rows, weights, every=1)
        predictions = Checkpointed.apply(gates, chain)
        assert predictions.shape == (3, 2, *shape)
        predictions.square().mean().backward()
        assert gates.grad is not None
        return gates.grad

    found = gradient(shape)
    assert found.abs().sum() > 0
    torch.testing.assert_close(found, gradient((24,)))
