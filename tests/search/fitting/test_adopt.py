"""A fitted sampler on another model than it was found on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from search.core.actions import Action
from search.core.errors import SearchError
from search.core.subnet import SubNet
from search.core.table import with_rows
from search.fitting.adopt import PICTURES, adopt, adopt_sampler
from search.methods.fewer_steps import fewer_steps
from search.methods.options import Options
from search.methods.registry import search
from search.methods.whole import full
from search.model.family import Request
from search.model.opening import open_pipeline
from search.model.pipeline import Pipeline
from search.model.reference import sample

PROMPTS = ("a red cross", "a blue circle")


@pytest.fixture(scope="module")
def opened(pipelines: Callable[[str], Path]) -> Pipeline:
    found = open_pipeline(pipelines("two-levels"))
    found.use_scheduler("DDIMScheduler", {"clip_sample": False, "prediction_type": "epsilon"})
    return found


@pytest.fixture(scope="module")
def whole(opened: Pipeline) -> SubNet:
    return full(opened, Options(steps=6, guidance=3))


@pytest.fixture(scope="module")
def found(pipelines: Callable[[str], Path]) -> SubNet:
    elsewhere = open_pipeline(pipelines("three-levels"))
    options = Options(steps=6, guidance=3, keep=0.5, fit_sampler=True, prompts=PROMPTS)
    return search(elsewhere, "fewer-steps", options)


def test_the_sampler_is_taken_and_its_cost_is_what_independent_runs_say(
    opened: Pipeline, whole: SubNet, found: SubNet
) -> None:
    plain = fewer_steps(opened, whole, 0.5)
    adopted = adopt(opened, whole, found, plain, PROMPTS, seed=3, report=lambda *_: None)
    assert adopted.subnet.fitted == found.fitted
    assert adopted.subnet.binding == whole.binding
    assert whole.binding.fingerprint != found.binding.fingerprint
    assert len(adopted.subnet.actions) == 3
    apart = []
    for seed in range(PICTURES):
        noise = torch.randn(1, *whole.binding.latent_shape, generator=torch.manual_seed(seed))
        ask = Request((PROMPTS[seed % 2],), 6, 3.0, latents=noise).sized(whole.binding.picture)
        ours, theirs = (sample(opened, ask, each).latents[-1] for each in (adopted.subnet, whole))
        apart.append(float((ours - theirs).norm() / theirs.norm()))
    assert adopted.error == pytest.approx(np.mean(apart), rel=0.5)
    assert adopted.plain is not None
    assert f"{adopted.error:.4f} from this full sampler's" in adopted.sentence()


def test_what_has_no_sampler_or_another_one_is_refused(whole: SubNet, found: SubNet) -> None:
    with pytest.raises(SearchError, match="has no fitted sampler; give one of --method carve"):
        adopt_sampler(whole, whole)
    other = replace(
        found, binding=replace(found.binding, scheduler="FlowMatchEulerDiscreteScheduler")
    )
    with pytest.raises(
        SearchError, match=r"fitted to FlowMatchEulerDiscreteScheduler \(epsilon\), but this pip"
    ):
        adopt_sampler(whole, other)
    rows = [found.actions[0], *[tuple(Action.REUSE for _ in found.actions[0])] * 2]
    with pytest.raises(
        SearchError, match="calls the denoiser at 1 of its 3 steps, and its sampler"
    ):
        adopt_sampler(whole, with_rows(found, rows))


def test_the_method_says_what_it_needs(opened: Pipeline) -> None:
    with pytest.raises(SearchError, match="none is named; add --adopt-sampler SUBNET"):
        search(opened, "adopt", Options(steps=6, guidance=3, prompts=PROMPTS))
