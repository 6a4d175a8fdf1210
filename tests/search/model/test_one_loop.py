"""Pipelines with more than one loop, and those that need what another one makes."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    IFPipeline,
    StableDiffusionPipeline,
)

from search.core.errors import SearchError
from search.model.entry import preparation_of
from search.model.failures import pipeline_failures
from search.model.one_loop import other_schedulers_refused, require_one_loop
from search.model.stand_in_scheduler import FixedScheduler, StandIn


class Decoding:
    """Needs what a prior makes."""

    def __call__(self, image_embeds: Any, prompt_embeds: Any = None) -> None: ...


class Combined:
    """A prior and a decoder."""

    def __init__(self) -> None:
        self.prior_pipe = object.__new__(DDIMPipeline)

    def __call__(self, prompt: str) -> None: ...


class Plain:
    """One loop."""

    def __call__(self, prompt: str, prompt_embeds: Any = None) -> None: ...


@pytest.mark.parametrize(
    ("pipe", "message"),
    [
        (Decoding(), "Decoding needs image_embeds, which another pipeline makes"),
        (Combined(), "Combined runs prior_pipe .* loop of its own"),
    ],
)
def test_they_are_refused(pipe: Any, message: str) -> None:
    with pytest.raises(SearchError, match=message):
        require_one_loop(pipe)


def test_a_plain_pipeline_is_not() -> None:
    require_one_loop(Plain())


def test_another_scheduler_is_refused_when_it_is_used() -> None:
    own, other = DDIMScheduler(), DDIMScheduler()
    pipe = SimpleNamespace(components={"scheduler": own, "prior_scheduler": other})
    with other_schedulers_refused(pipe):
        own.set_timesteps(3)
        with pytest.raises(SearchError, match="runs another loop, that of its prior_scheduler"):
            other.set_timesteps(3)
    other.set_timesteps(3)


def test_a_run_of_one_of_several_stages_is_refused() -> None:
    scheduler = FixedScheduler(torch.ones(1), {})
    scheduler.set_timesteps(3, "cpu")
    with pytest.raises(SearchError, match="samples in several loops"):
        scheduler.set_timesteps(3, 0, device="cpu")


@pytest.mark.parametrize(
    ("cls", "method"),
    [
        (StableDiffusionPipeline, "prepare_latents"),
        (IFPipeline, "prepare_intermediate_images"),
        (DDIMPipeline, None),
    ],
)
def test_who_draws_the_noise_is_found(cls: type, method: str | None) -> None:
    assert preparation_of(object.__new__(cls)) == method


def test_a_copy_of_a_stand_in_makes_no_step() -> None:
    class Ending(StandIn):
        def step(self, *_: Any, **__: Any) -> Any:
            raise AssertionError

    copied = copy.deepcopy(Ending(torch.ones(2), DDIMScheduler()))
    sound = torch.rand(3)
    assert copied.alphas_cumprod is not None
    with pytest.raises(SearchError, match=r"steps copies .* --call sample_audio=false"):
        stepped(copied, sound)


def stepped(scheduler: Any, sample: torch.Tensor) -> Any:
    with pipeline_failures(SimpleNamespace(components={})):
        return scheduler.step(sample, 1, sample)


def test_noise_levels_that_are_timesteps_by_a_number_follow_these() -> None:
    own, times = FlowMatchEulerDiscreteScheduler(shift=3.0), torch.tensor([700.0, 200.0])
    levels = StandIn(times, own).sigmas
    assert len(levels) == 3
    torch.testing.assert_close(torch.stack(list(levels)), torch.tensor([0.7, 0.2, 0.0]))
    assert levels[-2].equal(levels[1])
    known = torch.stack(list(levels))
    assert levels[1:].equal(known[1:])
    assert (levels > 0.5).tolist() == [True, False, False]
    assert (1 - levels * 2).equal(1 - known * 2)
    assert levels.to(torch.float64).dtype is torch.float64
    with pytest.raises(SearchError, match="sets noise level -1 of its scheduler itself"):
        levels[-1] = levels[-2]
    own.set_timesteps(5)
    torch.testing.assert_close(torch.stack(list(StandIn(own.timesteps, own).sigmas)), own.sigmas)


@pytest.mark.parametrize(
    "own",
    [
        EulerDiscreteScheduler(),
        FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
        DDIMScheduler(),
    ],
    ids=["Euler", "inverted", "DDIM"],
)
def test_other_noise_levels_may_be_held_and_not_computed_with(own: Any) -> None:
    scheduler = StandIn(torch.ones(2), own)
    levels, sample = scheduler.sigmas, torch.ones(2)
    level = levels[1]
    assert math.isnan(float(level))
    assert len(levels) == 3

    def levels_on_cpu() -> Any:
        return levels.to("cpu")

    for compute in (
        *(lambda: sample * level, lambda: level / 2, lambda: level.expand(3), lambda: level > 0.5),
        *(lambda: level >= 0.5, lambda: level == 0, lambda: 1 if level else 0, lambda: abs(level)),
        *(lambda: levels * 1000, lambda: levels < 1, levels_on_cpu),
    ):
        with (
            pytest.raises(SearchError, match="computes with the noise levels of its scheduler"),
            pipeline_failures(SimpleNamespace(components={})),
        ):
            compute()
    copy.deepcopy(scheduler)
    with pytest.raises(SearchError, match="steps copies"):
        stepped(SimpleNamespace(step=lambda *_: sample - level), sample)
