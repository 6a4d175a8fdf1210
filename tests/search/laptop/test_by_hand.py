"""Removals that people made, on U-Nets and transformers that have the structure, and on others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from search.core.blocks import skipped
from search.core.errors import SearchError
from search.core.subnet import Granularity, SubNet
from search.laptop import by_hand
from search.laptop.layers import params_of
from search.methods.options import Options
from search.methods.whole import full
from search.model.opening import open_pipeline
from tests.toys import chain, subnet

Whole = Callable[[str], SubNet]


@pytest.fixture(scope="module")
def whole(pipelines: Callable[[str], Path]) -> Whole:
    def make(name: str) -> SubNet:
        pipeline = open_pipeline(pipelines(name), weights=False)
        return full(pipeline, Options(steps=2, granularity=Granularity.LAYER))

    return make


def names(subnet: SubNet) -> set[str]:
    return set(skipped(subnet))


def test_base_removes_the_second_pairs(whole: Whole) -> None:
    found = names(by_hand.bk_sdm(whole("shapes-sd"), "base"))
    assert {"down_blocks.0.resnets.1", "down_blocks.0.attentions.1"} <= found
    assert {"up_blocks.3.resnets.1", "up_blocks.0.resnets.1"} <= found
    assert all(name.endswith(".1") and not name.startswith("mid") for name in found)


def test_each_variant_removes_more(whole: Whole) -> None:
    base, small, tiny = (
        names(by_hand.bk_sdm(whole("shapes-sd"), variant)) for variant in by_hand.VARIANTS
    )
    assert small - base == {"mid_block.resnets.0", "mid_block.attentions.0", "mid_block.resnets.1"}
    assert tiny - small == {
        "down_blocks.3.resnets.0",
        "up_blocks.0.resnets.0",
        "up_blocks.0.resnets.2",
    }


@pytest.mark.parametrize("keep", [0.7, 0.5])
def test_the_order_of_bk_sdm_meets_a_budget(whole: Whole, keep: float) -> None:
    subnet = by_hand.bk_sdm_order(whole("shapes-sd"), keep, params_of)
    assert keep - 0.005 <= params_of(subnet) <= keep


def test_every_second_block_comes_first(whole: Whole) -> None:
    assert names(by_hand.every_second(whole("shapes-dit"), 0.504, params_of)) == {
        f"transformer_blocks.{i}" for i in range(1, 10, 2)
    }


def test_every_second_counts_through_lists_of_blocks() -> None:
    lists = ("transformer_blocks.0", "transformer_blocks.1", "single_transformer_blocks.0")
    two_lists = subnet(replace(chain(), blocks=lists), "RRR")
    for keep, removed in ((0.7, {lists[1]}), (0.4, {lists[1], lists[2]})):
        assert names(by_hand.every_second(two_lists, keep, params_of)) == removed


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda dit, _: by_hand.bk_sdm(dit, "base"), "bk-sdm is made for a U-Net with two layers"),
        (lambda dit, _: by_hand.bk_sdm_order(dit, 0.5, params_of), "bk-sdm is made for a U-Net"),
        (
            lambda _, sd: by_hand.bk_sdm(sd, "huge"),
            "no variant 'huge' of BK-SDM; choose one of base",
        ),
        (lambda _, sd: by_hand.with_depths(sd, "vega"), "vega is made for SDXL's U-Net"),
        (
            lambda _, sd: by_hand.every_second(sd, 0.5, params_of),
            "every second block is made for a",
        ),
    ],
)
def test_another_structure_is_refused(
    whole: Whole, make: Callable[[SubNet, SubNet], SubNet], message: str
) -> None:
    with pytest.raises(SearchError, match=message):
        make(whole("shapes-dit"), whole("shapes-sd"))
