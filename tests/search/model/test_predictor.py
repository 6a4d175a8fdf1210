"""Noise predictions for some prompts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from search.model.opening import open_pipeline
from search.model.predictor import Predictor


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
