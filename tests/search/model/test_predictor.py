"""Gradients through calls that are computed again on the way back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from search.model.opening import open_pipeline
from search.model.predictor import Predictor


def test_gradients_are_those_of_the_plain_calls_and_weights_have_none(
    pipelines: Callable[[str], Path],
) -> None:
    opened = open_pipeline(pipelines("two-levels"))
    size = opened.denoiser.config.sample_size
    shape = (4, size, size)
    predictor = Predictor(
        opened, ("a cross", "a star", "a bar"), guidance=3.0, noise_shape=shape, chunk=2
    )
    noise = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    plain, felt = [], []
    for run, into in ((predictor, felt), (_kept(predictor), plain)):
        sample, timestep = noise.clone().requires_grad_(), torch.tensor(400.0, requires_grad=True)
        made = run(sample, timestep)
        made.square().sum().backward()
        into += [made, sample.grad, timestep.grad]
    torch.testing.assert_close(felt, plain)
    assert all(weight.grad is None for weight in opened.denoiser.parameters())


def test_part_of_the_calls_has_its_own_prompts(pipelines: Callable[[str], Path]) -> None:
    opened = open_pipeline(pipelines("two-levels"))
    size = opened.denoiser.config.sample_size
    shape = (4, size, size)
    predictor = Predictor(
        opened, ("a cross", "a star", "a bar"), guidance=3.0, noise_shape=shape, chunk=2
    )
    noise = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    last, time = predictor.of_chunks([1]), torch.tensor(400.0)
    assert last.prompts == ("a bar",)
    torch.testing.assert_close(last.first(1)(noise[2:], time), predictor(noise, time)[2:])


def _kept(predictor: Predictor) -> Callable[[Tensor, Tensor], Tensor]:
    """The same with all activations kept."""

    def run(sample: Tensor, timestep: Tensor) -> Tensor:
        parts = zip(sample.split(2), predictor.bodies, strict=True)
        return torch.cat([predictor._predict(part, timestep, call) for part, call in parts])

    return run
