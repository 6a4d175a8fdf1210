"""The gated reference, against blocks gated by hand and against the DeepCache package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from search.core.actions import Action
from search.core.subnet import Granularity, SubNet
from search.core.table import with_actions
from search.methods import schedules
from search.methods.options import Options
from search.methods.whole import full
from search.model.family import Request
from search.model.opening import open_pipeline
from search.model.pipeline import Pipeline
from search.model.reference import gated, sample
from tests.hand_gating import gated_by_hand
from tests.mixes import random_mix

DEEP = ("shapes-sd", "two-levels")
"""Many blocks: slow."""
NAMES = ("shapes-sd", "shapes-dit", "three-levels", "two-levels", "learned-variance")


def request(pipeline: Pipeline, steps: int) -> Request:
    shape = (1, pipeline.denoiser.config.in_channels, *(pipeline.denoiser.config.sample_size,) * 2)
    noise = torch.randn(shape, generator=torch.manual_seed(7))
    return Request((pipeline.family.default_prompt,), steps, 7.5, latents=noise)


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n in DEEP else n for n in NAMES],
)
def test_random_subnets_equal_blocks_gated_by_hand(
    pipelines: Callable[[str], Path], name: str
) -> None:
    opened = open_pipeline(pipelines(name))
    for granularity in Granularity:
        whole = full(opened, Options(steps=12, granularity=granularity))
        ask = request(opened, 12)
        plain = sample(opened, ask)
        for seed in range(2):
            subnet = schedules.random_reuse(whole, keep=0.5, seed=seed)
            with gated_by_hand(opened.denoiser, subnet, opened.family):
                expected = sample(opened, ask)
            found = sample(opened, ask, subnet)
            assert difference(found.latents[-1], expected.latents[-1]) <= 1e-6
            assert difference(found.latents[-1], plain.latents[-1]) > 1e-4, "the gates do something"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("granularity", list(Granularity))
def test_random_mixes_of_all_actions_equal_blocks_gated_by_hand(
    pipelines: Callable[[str], Path], name: str, granularity: Granularity
) -> None:
    opened = open_pipeline(pipelines(name))
    whole = full(opened, Options(steps=8, granularity=granularity))
    assert whole.topology.based
    ask = request(opened, 8)
    for seed in range(2):
        subnet = random_mix(whole, seed)
        with gated_by_hand(opened.denoiser, subnet, opened.family):
            expected = sample(opened, ask)
        found = sample(opened, ask, subnet)
        assert difference(found.latents[-1], expected.latents[-1]) <= 1e-5


def test_delta_is_neither_running_nor_reusing(pipelines: Callable[[str], Path]) -> None:
    opened = open_pipeline(pipelines("shapes-dit"))
    whole = full(opened, Options(steps=8))
    ask = request(opened, 8)
    latents = [
        sample(opened, ask, each_second_step(whole, action, 4)).latents[-1]
        for action in (Action.RUN, Action.REUSE, Action.DELTA)
    ]
    run, reuse, delta = latents
    assert difference(delta, run) > 1e-4
    assert difference(delta, reuse) > 1e-4


def each_second_step(whole: SubNet, action: Action, gated: int) -> SubNet:
    return with_actions(
        whole, lambda t, b: action if b == gated and t % 2 else Action.RUN, method="second"
    )


def test_a_block_under_delta_is_not_called_but_for_its_shortcut(
    pipelines: Callable[[str], Path],
) -> None:
    opened = open_pipeline(pipelines("shapes-sd"))
    whole = full(opened, Options(steps=6, granularity=Granularity.LAYER))
    name = "up_blocks.1.resnets.0"
    subnet = each_second_step(whole, Action.DELTA, whole.topology.blocks.index(name))
    called: dict[str, int] = {}

    def count(part: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            called[part] = called.get(part, 0) + 1

        return hook

    resnet = opened.denoiser.get_submodule(name)
    parts = ("conv1", "conv2", "norm1")
    handles = [resnet.get_submodule(p).register_forward_hook(count(p)) for p in parts]
    before = opened.denoiser.get_submodule("up_blocks.0.upsamplers.0.conv")
    handles.append(before.register_forward_hook(count("before")))
    sample(opened, request(opened, 6), subnet)
    for handle in handles:
        handle.remove()
    assert called == {"conv1": 3, "conv2": 3, "norm1": 3, "before": 6}


def test_an_old_value_comes_back_when_its_block_is_skipped_again(
    pipelines: Callable[[str], Path],
) -> None:
    opened = open_pipeline(pipelines("shapes-dit"))
    whole = full(opened, Options(steps=6))
    gates = {(t, 4): Action.REUSE for t in (2, 3, 4)}
    gates |= {(2, 5): Action.SKIP, (4, 5): Action.SKIP, (5, 5): Action.REUSE}
    subnet = with_actions(whole, lambda t, b: gates.get((t, b), Action.RUN), method="x")
    ask = request(opened, 6)
    with gated_by_hand(opened.denoiser, subnet, opened.family):
        expected = sample(opened, ask)
    assert difference(sample(opened, ask, subnet).latents[-1], expected.latents[-1]) <= 1e-6


@pytest.mark.parametrize(
    ("name", "granularity", "block", "parts", "left"),
    [
        ("shapes-sd", Granularity.LAYER, "up_blocks.1.resnets.0", ("conv1", "time_emb_proj"), True),
        ("shapes-sd", Granularity.BRANCH, "up_blocks.1.attentions.1", ("proj_in", "norm"), False),
        ("shapes-sd", Granularity.STAGE, "mid_block", ("resnets.0.conv1", "attentions.0"), False),
        ("two-levels", Granularity.LAYER, "mid_block.attentions.0", ("proj_in",), False),
        ("shapes-dit", Granularity.LAYER, "transformer_blocks.3", ("attn1.to_q", "norm1"), False),
    ],
)
def test_a_block_that_is_always_skipped_is_never_called_but_for_its_shortcut(
    pipelines: Callable[[str], Path],
    name: str,
    granularity: Granularity,
    block: str,
    parts: tuple[str, ...],
    left: bool,
) -> None:
    opened = open_pipeline(pipelines(name))
    whole = full(opened, Options(steps=3, granularity=granularity))
    at = whole.topology.blocks.index(block)
    subnet = with_actions(whole, lambda _, b: Action.SKIP if b == at else Action.RUN, method="skip")
    module = opened.denoiser.get_submodule(block)
    called: list[str] = []
    watched = (*parts, "conv_shortcut") if left else parts
    handles = [
        module.get_submodule(part).register_forward_hook(lambda *_, part=part: called.append(part))
        for part in watched
    ]
    ask = request(opened, 3)
    found = sample(opened, ask, subnet)
    assert called == ["conv_shortcut"] * (len(found.latents) if left else 0)
    for handle in handles:
        handle.remove()
    with gated_by_hand(opened.denoiser, subnet, opened.family):
        expected = sample(opened, ask)
    assert difference(found.latents[-1], expected.latents[-1]) <= 1e-6
    assert difference(found.latents[-1], sample(opened, ask).latents[-1]) > 1e-4


def test_a_skipped_block_still_runs_for_a_block_inside_it_that_is_read_later(
    pipelines: Callable[[str], Path],
) -> None:
    opened = open_pipeline(pipelines("shapes-dit"))
    whole = full(opened, Options(steps=3, granularity=Granularity.LAYER))
    outer, inner = map(
        whole.topology.blocks.index, ("transformer_blocks.3", "transformer_blocks.3.attn1")
    )
    gates = {(0, outer): Action.SKIP, (1, inner): Action.REUSE}
    subnet = with_actions(whole, lambda t, b: gates.get((t, b), Action.RUN), method="inner")
    ask = request(opened, 3)
    with gated_by_hand(opened.denoiser, subnet, opened.family):
        expected = sample(opened, ask)
    assert difference(sample(opened, ask, subnet).latents[-1], expected.latents[-1]) <= 1e-6


def test_the_full_subnet_changes_nothing(pipelines: Callable[[str], Path]) -> None:
    for name in NAMES:
        opened = open_pipeline(pipelines(name))
        ask = request(opened, 6)
        found = sample(opened, ask, full(opened, Options(steps=6)))
        assert torch.equal(found.latents[-1], sample(opened, ask).latents[-1])


@pytest.mark.parametrize(("interval", "branch"), [(5, 0), (3, 1), (2, 2), (4, 3), (3, 5), (5, 7)])
def test_deepcache_equals_the_package(
    pipelines: Callable[[str], Path], interval: int, branch: int
) -> None:
    from DeepCache import DeepCacheSDHelper

    opened = open_pipeline(pipelines("shapes-sd"))
    subnet = schedules.deepcache(full(opened, Options(steps=20)), interval=interval, branch=branch)
    ask = request(opened, 20)
    helper = DeepCacheSDHelper(pipe=opened.pipe)
    helper.set_params(cache_interval=interval, cache_branch_id=branch)
    helper.enable()
    try:
        expected = sample(opened, ask)
    finally:
        helper.disable()
    found = sample(opened, ask, subnet)
    assert difference(found.latents[-1], expected.latents[-1]) <= 1e-6
    assert difference(found.latents[-1], sample(opened, ask).latents[-1]) > 1e-4


def test_only_live_blocks_are_called(pipelines: Callable[[str], Path]) -> None:
    opened = open_pipeline(pipelines("shapes-sd"))
    subnet = schedules.deepcache(full(opened, Options(steps=10)), interval=5, branch=0)
    called: dict[str, int] = {}

    def count(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            called[name] = called.get(name, 0) + 1

        return hook

    convolutions = {
        name: module.register_forward_hook(count(name))
        for name, module in opened.denoiser.named_modules()
        if isinstance(module, nn.Conv2d)
    }
    sample(opened, request(opened, 10), subnet)
    for handle in convolutions.values():
        handle.remove()
    assert called["conv_in"] == called["conv_out"] == 10
    assert called["up_blocks.3.resnets.2.conv1"] == 10
    assert called["up_blocks.3.resnets.1.conv1"] == 2
    assert called["mid_block.resnets.0.conv1"] == 2
    assert called["down_blocks.0.resnets.1.conv1"] == 2


def test_a_step_without_a_call_does_not_call_the_denoiser(
    pipelines: Callable[[str], Path],
) -> None:
    opened = open_pipeline(pipelines("shapes-sd"))
    whole = full(opened, Options(steps=10))
    last = whole.topology.blocks.index("up_blocks.3.attentions.2")
    subnet = with_actions(
        whole, lambda t, b: Action.REUSE if b == last and t % 5 else Action.RUN, method="held"
    )
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    handle = opened.denoiser.conv_in.register_forward_hook(count)
    found = sample(opened, request(opened, 10), subnet)
    handle.remove()
    assert calls == 2
    assert len(found.latents) == 10


def test_the_model_is_as_it_was_afterwards(pipelines: Callable[[str], Path]) -> None:
    opened = open_pipeline(pipelines("shapes-sd"))
    subnet = schedules.deepcache(full(opened, Options(steps=4)), interval=2, branch=0)
    before = {name: dict(vars(m)) for name, m in opened.denoiser.named_modules()}
    with pytest.raises(RuntimeError, match="stop"), gated(opened.denoiser, subnet):
        raise RuntimeError("stop")
    sample(opened, request(opened, 4), subnet)
    after = {name: dict(vars(m)) for name, m in opened.denoiser.named_modules()}
    assert before.keys() == after.keys()
    assert all(before[name].keys() == after[name].keys() for name in before)
    assert "step" not in vars(opened.pipe.scheduler)


def test_a_table_repeats_from_one_picture_to_the_next(pipelines: Callable[[str], Path]) -> None:
    opened = open_pipeline(pipelines("shapes-sd"))
    subnet = schedules.deepcache(full(opened, Options(steps=6)), interval=3, branch=0)
    ask = request(opened, 6)
    with gated(opened.denoiser, subnet):
        first, second = sample(opened, ask), sample(opened, ask)
    assert torch.equal(first.latents[-1], second.latents[-1])


def test_several_images_at_once_are_sampled_alike(pipelines: Callable[[str], Path]) -> None:
    opened = open_pipeline(pipelines("shapes-sd"))
    subnet = schedules.deepcache(full(opened, Options(steps=6)), interval=3, branch=0)
    noise = torch.randn(3, 4, 16, 16, generator=torch.manual_seed(1))
    prompts = ("a small red circle left on a grey field", "a large blue cross", "")
    together = sample(opened, Request(prompts, 6, 4.0, latents=noise), subnet)
    for i, prompt in enumerate(prompts):
        alone = sample(opened, Request((prompt,), 6, 4.0, latents=noise[i : i + 1]), subnet)
        assert difference(together.latents[-1][i], alone.latents[-1][0]) <= 1e-5


def test_a_subnet_of_a_part_runs_that_part(pipelines: Callable[[str], Path]) -> None:
    pipeline = open_pipeline(pipelines("three-levels"))
    part = full(pipeline, Options(steps=5, guidance=3, end_step=2))
    noise = torch.randn(1, *part.binding.latent_shape, generator=torch.manual_seed(0))
    request = Request((pipeline.family.default_prompt,), steps=5, guidance=3, latents=noise)
    assert len(sample(pipeline, request, part).latents) == 2
    assert len(sample(pipeline, request).latents) == 5
