"""What the tests of the SuperNet share: an opened pipeline with random gates."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from search.core.actions import Action
from search.core.subnet import Granularity, SubNet
from search.methods.options import Options
from search.methods.whole import full
from search.model.opening import open_pipeline
from search.model.pipeline import Pipeline
from search.supernet.supernet import Case, SuperNet


def opened(
    path: Path, *, steps: int, granularity: Granularity = Granularity.BRANCH, double: bool = False
) -> tuple[Pipeline, SubNet]:
    """A pipeline, in float64 if asked, and the SubNet that runs everything."""
    pipeline = open_pipeline(path)
    whole = _full(path, steps, granularity)
    if double:
        pipeline.pipe.to(torch.float64)
    return pipeline, whole


@lru_cache
def _full(path: Path, steps: int, granularity: Granularity) -> SubNet:
    options = Options(steps=steps, granularity=granularity, guidance=3.0)
    return full(open_pipeline(path), options)


def case_of(net: SuperNet, *, images: int = 1) -> Case:
    """The pipeline's default prompt, from noise that is always the same."""
    shape = (images, *net.full.binding.latent_shape)
    noise = torch.randn(shape, generator=torch.manual_seed(7), dtype=torch.float64)
    prompts = (net.pipeline.family.default_prompt,) * images
    return net.case(prompts, noise.to(net.pipeline.denoiser.dtype))


def soft_gates(net: SuperNet, seed: int = 0) -> Tensor:
    """Random gates strictly between 0 and 1 that add up to 1, float64."""
    scores = np.random.default_rng(seed).normal(size=net.shape)
    scores[:, ~net.allowed.numpy()] = -np.inf
    return torch.from_numpy(scores).softmax(-1)


def hard_gates(net: SuperNet, seed: int = 0) -> Tensor:
    """Random gates of exactly 0 and 1, float64."""
    soft = soft_gates(net, seed)
    return torch.nn.functional.one_hot(soft.argmax(-1), net.shape[-1]).double()


def actions_of(net: SuperNet, gates: Tensor) -> list[list[Action]]:
    """What hard gates say, step 0 running everything."""
    rows = [[net.choices[i] for i in row] for row in gates.argmax(-1).tolist()]
    return [[Action.RUN] * len(rows[0]), *rows[1:]]
