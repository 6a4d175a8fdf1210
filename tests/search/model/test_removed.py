"""Pipelines without some of their blocks."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from search.core.actions import Action
from search.core.blocks import skipped
from search.core.errors import SearchError
from search.core.subnet import Granularity, SubNet
from search.core.summary import cells
from search.core.table import keep_of, with_actions
from search.dipgo.paper import run_paper
from search.dipgo.recipe import PAPER
from search.distill.student import prune, save_pipeline
from search.methods.options import Options
from search.methods.prompts import default_prompts
from search.methods.registry import search, search_keeps
from search.methods.whole import full
from search.model.family import Request
from search.model.opening import open_pipeline
from search.model.reference import sample
from search.model.removed import KEY

REMOVED = {
    "three-levels": (
        "down_blocks.0.resnets.0",
        "down_blocks.1.attentions.0.transformer_blocks.0",
        "mid_block",
        "up_blocks.1.resnets.1",
        "up_blocks.1.attentions.0",
    ),
    "learned-variance": ("transformer_blocks.1",),
}
STEPS = 3


@pytest.fixture(params=sorted(REMOVED))
def name(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def pruned(pipelines: Callable[[str], Path], name: str, tmp_path: Path) -> Path:
    return make(pipelines(name), REMOVED[name], tmp_path / "pruned")


def make(path: Path, removed: tuple[str, ...], out: Path) -> Path:
    whole = open_pipeline(path)
    save_pipeline(whole, prune(whole, removed), out)
    return out


def skipping_by_table(path: Path, removed: tuple[str, ...]) -> tuple[SubNet, ...]:
    """SubNets of the whole pipeline that skip the blocks at each granularity that has them."""
    opened = open_pipeline(path, weights=False)
    found = []
    for granularity in Granularity:
        whole = full(opened, Options(steps=STEPS, guidance=3.0, granularity=granularity))
        if set(removed) <= set(whole.topology.blocks):
            names = whole.topology.blocks
            found.append(
                with_actions(
                    whole,
                    lambda _, b, names=names: (  # type: ignore[misc]
                        Action.SKIP if names[b] in removed else Action.RUN
                    ),
                    "by table",
                )
            )
    return tuple(found)


def final_latents(path: Path, subnet: SubNet | None = None) -> torch.Tensor:
    pipeline = open_pipeline(path)
    request = Request((pipeline.family.default_prompt,), STEPS, 3.0)
    return sample(pipeline, request, subnet, generator=torch.Generator().manual_seed(0)).latents[-1]


def test_it_computes_what_a_subnet_of_skips_does(
    pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    names = ("transformer_blocks.1",)
    [table, *_] = skipping_by_table(pipelines("learned-variance"), names)
    pruned = make(pipelines("learned-variance"), names, tmp_path / "pruned")
    expected = final_latents(pipelines("learned-variance"), table)
    torch.testing.assert_close(final_latents(pruned), expected)


def test_a_shortcut_convolution_stays(pipelines: Callable[[str], Path], tmp_path: Path) -> None:
    names = ("up_blocks.1.resnets.1", "down_blocks.0.resnets.0")
    [table] = skipping_by_table(pipelines("three-levels"), names)
    pruned = make(pipelines("three-levels"), names, tmp_path / "pruned")
    expected = final_latents(pipelines("three-levels"), table)
    torch.testing.assert_close(final_latents(pruned), expected)
    kept = [
        key
        for key in open_pipeline(pruned).denoiser.state_dict()
        if key.startswith("up_blocks.1.resnets.1")
    ]
    assert kept == [
        "up_blocks.1.resnets.1.conv_shortcut.weight",
        "up_blocks.1.resnets.1.conv_shortcut.bias",
    ]


def test_weights_are_gone_from_the_directory(
    pipelines: Callable[[str], Path], name: str, pruned: Path
) -> None:
    whole, part = open_pipeline(pipelines(name)), open_pipeline(pruned)
    gone = set(whole.denoiser.state_dict()) - set(part.denoiser.state_dict())
    assert gone
    assert all(any(key.startswith(f"{name}.") for name in REMOVED[name]) for key in gone)
    assert not any(key in part.weights for key in gone)


def test_it_is_another_pipeline(pipelines: Callable[[str], Path], name: str, pruned: Path) -> None:
    assert open_pipeline(pruned).fingerprint == open_pipeline(pruned, weights=False).fingerprint
    assert open_pipeline(pruned).fingerprint != open_pipeline(pipelines(name)).fingerprint


@pytest.mark.parametrize("granularity", list(Granularity))
def test_the_table_shows_skip_for_what_is_gone(
    name: str, pruned: Path, granularity: Granularity
) -> None:
    opened = open_pipeline(pruned, weights=False)
    found = full(opened, Options(steps=STEPS, granularity=granularity))
    skipped = {
        block
        for block, column in zip(
            found.topology.blocks, zip(*found.actions, strict=True), strict=True
        )
        if set(column) == {Action.SKIP}
    }
    assert skipped == set(REMOVED[name])
    assert keep_of(found) == 1


def test_the_papers_search_says_skip_for_what_is_gone(name: str, pruned: Path) -> None:
    options = Options(steps=STEPS, granularity=Granularity.LAYER)
    recipe = replace(PAPER, iterations=1, width=16, head=(8,))
    opened = open_pipeline(pruned)
    prompts = default_prompts(opened)[:1]
    [found] = run_paper(opened, full(opened, options), (0.8,), prompts=prompts, recipe=recipe)
    for block, column in zip(found.topology.blocks, zip(*found.actions, strict=True), strict=True):
        assert (Action.RUN in column) is (block not in REMOVED[name])


def test_a_stage_around_a_removed_block_can_still_be_reused(
    pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    pruned = make(pipelines("three-levels"), ("mid_block.resnets.1",), tmp_path / "pruned")
    opened = open_pipeline(pruned, weights=False)
    whole = full(opened, Options(steps=2, granularity=Granularity.STAGE))
    middle, inner = map(whole.topology.blocks.index, ("mid_block", "mid_block.resnets.1"))
    second = tuple(
        Action.REUSE if block == middle else action for block, action in enumerate(whole.actions[1])
    )
    found = cells(replace(whole, actions=(whole.actions[0], second)))
    assert found[1][middle] is Action.REUSE
    assert found[1][inner] is None


def test_deepcache_counts_only_its_own_branches(
    pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    names = ("up_blocks.1.resnets.1", "up_blocks.1.attentions.0")
    pruned = open_pipeline(
        make(pipelines("three-levels"), names, tmp_path / "pruned"), weights=False
    )
    whole = open_pipeline(pipelines("three-levels"), weights=False)
    options = Options(steps=4, interval=2, branch=1)

    def reused(subnet: SubNet) -> set[str]:
        columns = zip(*subnet.actions, strict=True)
        return {
            block
            for block, column in zip(subnet.topology.blocks, columns, strict=True)
            if Action.REUSE in column
        }

    assert reused(search(pruned, "deepcache", options)) == reused(
        search(whole, "deepcache", options)
    )


def test_the_gradient_search_gives_skip_and_reuse(
    pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    pruned = make(pipelines("three-levels"), ("mid_block.resnets.1",), tmp_path / "pruned")
    options = Options(steps=4, granularity=Granularity.STAGE, iterations=1)
    [found] = search_keeps(open_pipeline(pruned), "dip-go", options, [0.6])
    gone = found.topology.blocks.index("mid_block.resnets.1")
    assert Action.RUN not in {row[gone] for row in found.actions}
    assert found.actions[0][gone] is Action.SKIP
    assert any(Action.REUSE in row for row in found.actions)


def test_the_search_for_layers_takes_more_away(name: str, pruned: Path) -> None:
    options = Options(steps=STEPS, granularity=Granularity.LAYER, tuples=2)
    [found] = search_keeps(open_pipeline(pruned), "laptop", options, [0.7])
    assert set(REMOVED[name]) < set(skipped(found))
    assert keep_of(found) <= 0.7


def test_bk_sdm_goes_on_from_its_own_smaller_variant(
    pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    options = Options(steps=2, granularity=Granularity.LAYER)
    whole = open_pipeline(pipelines("shapes-sd"), weights=False)
    base, small = (
        search(whole, "bk-sdm", replace(options, variant=each)) for each in ("base", "small")
    )
    pruned = make(pipelines("shapes-sd"), tuple(skipped(base)), tmp_path / "pruned")
    again = search(
        open_pipeline(pruned, weights=False), "bk-sdm", replace(options, variant="small")
    )
    assert set(skipped(again)) == set(skipped(small))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (["nowhere"], r"\['nowhere'\] are no blocks of this UNet2DConditionModel"),
        (["mid_block", "mid_block.resnets.0"], r"\['mid_block.resnets.0'\] are named twice or lie"),
        ("mid_block", "has removed_blocks 'mid_block'; give a list of block names"),
        ([7], r"has removed_blocks \[7\]; give a list"),
        (["conv_in"], r"\['conv_in'\] are no blocks"),
        (["__class__"], r"\['__class__'\] are no blocks"),
    ],
)
def test_a_garbled_list_is_refused(
    pipelines: Callable[[str], Path], tmp_path: Path, entry: object, message: str
) -> None:
    pruned = make(pipelines("three-levels"), ("mid_block",), tmp_path / "pruned")
    config = pruned / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {KEY: entry}))
    with pytest.raises(SearchError, match=message):
        open_pipeline(pruned, weights=False)


def test_weights_that_should_be_there_are_asked_for(
    pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    pruned = make(
        pipelines("three-levels"), ("mid_block", "up_blocks.1.resnets.1"), tmp_path / "pruned"
    )
    config = pruned / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {KEY: ["mid_block"]}))
    with pytest.raises(SearchError, match=r"they lack \['up_blocks.1.resnets.1"):
        open_pipeline(pruned)
