"""Hand-made SubNets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from search.core.actions import Action
from search.core.errors import SearchError
from search.core.subnet import Granularity, SubNet
from search.core.table import keep_of
from search.methods import schedules
from search.methods.options import Options
from search.methods.registry import search
from search.model.opening import open_pipeline
from tests.toys import chain, hourglass, subnet

SD15_BRANCHES = (
    *(
        f"down_blocks.{i}.{part}"
        for i in range(3)
        for part in ("attentions.0", "attentions.1", "downsamplers.0")
    ),
    "down_blocks.3.resnets.0",
    "down_blocks.3.resnets.1",
    "mid_block",
    *(f"up_blocks.0.{part}" for part in ("resnets.0", "resnets.1", "resnets.2", "upsamplers.0")),
    *(
        f"up_blocks.{i}.{part}"
        for i in (1, 2)
        for part in ("attentions.0", "attentions.1", "attentions.2", "upsamplers.0")
    ),
    *(f"up_blocks.3.attentions.{i}" for i in range(3)),
)


@pytest.mark.parametrize(
    ("branch", "reused"),
    [
        (0, "up_blocks.3.attentions.1"),
        (1, "up_blocks.3.attentions.0"),
        (2, "up_blocks.2.upsamplers.0"),
        (3, "up_blocks.2.attentions.1"),
        (5, "up_blocks.1.upsamplers.0"),
        (8, "up_blocks.0.upsamplers.0"),
        (10, "up_blocks.0.resnets.0"),
    ],
)
def test_deepcache_reuses_the_block_below_its_layers(branch: int, reused: str) -> None:
    assert schedules.deepcache_cut(SD15_BRANCHES, branch) == reused


@pytest.mark.parametrize("branch", [-1, 11, 40])
def test_a_branch_that_does_not_exist_is_refused_with_those_that_do(branch: int) -> None:
    with pytest.raises(SearchError, match=f"there is no DeepCache branch {branch}.*one of 0 to 10"):
        schedules.deepcache_cut(SD15_BRANCHES, branch)


def test_deepcache_on_a_transformer_is_refused() -> None:
    with pytest.raises(SearchError, match="DeepCache needs a U-Net at branch granularity"):
        schedules.deepcache(subnet(chain(), "RRR", "RRR"), interval=2, branch=0)


def test_a_timestep_that_comes_twice_counts_where_it_first_stands(
    pipelines: Callable[[str], Path],
) -> None:
    opened = open_pipeline(pipelines("two-levels"), weights=False)
    found = search(opened, "deepcache", Options(steps=10, interval=2))
    timesteps = found.binding.timesteps
    assert timesteps[1] == timesteps[2], "PNDM"
    reused = found.topology.blocks.index("up_blocks.1.attentions.0")
    assert [row[reused] for row in found.actions[:5]] == [
        Action.RUN, Action.REUSE, Action.REUSE, Action.REUSE, Action.RUN,
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["shapes-sd", "shapes-dit", "two-levels"])
@pytest.mark.parametrize("keep", [0.15, 0.5])
def test_random_keeps_what_was_asked(
    pipelines: Callable[[str], Path], name: str, keep: float
) -> None:
    opened = open_pipeline(pipelines(name), weights=False)
    for granularity in Granularity:
        found = search(opened, "random", Options(steps=25, keep=keep, granularity=granularity))
        assert abs(keep_of(found) - keep) <= 0.02


def test_random_depends_on_its_seed_alone(pipelines: Callable[[str], Path]) -> None:
    opened = open_pipeline(pipelines("shapes-dit"), weights=False)
    first, same, other = (
        search(opened, "random", Options(steps=20, keep=0.4, seed=seed)) for seed in (1, 1, 2)
    )
    assert first == same
    assert first.actions != other.actions


def test_random_refuses_a_keep_it_cannot_reach() -> None:
    whole = subnet(chain(), "RRR", "RRR")
    with pytest.raises(SearchError, match=r"keeps 0.1; the closest keeps 0.500"):
        schedules.random_reuse(whole, keep=0.1, seed=0)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("keep", [0.2, 0.5, 0.9, 1.0])
def test_random_within_never_costs_more(keep: float, seed: int) -> None:
    found = schedules.random_within(subnet(hourglass(), *["RRR"] * 8), keep=keep, seed=seed)
    assert keep_of(found) <= keep
    assert keep_of(found) > keep - 1 / 8 - 1e-9, "one step fits in at most"
    assert set(found.actions[0]) == {Action.RUN}


def test_random_within_cannot_do_without_the_first_step() -> None:
    whole = subnet(hourglass(), *["RRR"] * 8)
    assert (
        schedules.random_within(whole, keep=1 / 8, seed=0).actions[1:] == ((Action.REUSE,) * 3,) * 7
    )
    with pytest.raises(SearchError, match=r"step 0 alone costs more than a keep of 0\.1"):
        schedules.random_within(whole, keep=0.1, seed=0)


@pytest.mark.parametrize(("name", "last"), [("three-levels", 6), ("shapes-sd", 10)])
def test_deepcache_has_the_branches_it_says(
    pipelines: Callable[[str], Path], name: str, last: int
) -> None:
    opened = open_pipeline(pipelines(name), weights=False)
    blocks = search(opened, "full", Options(steps=2)).topology.blocks
    branches = schedules.deepcache_branches(blocks)
    assert branches == range(last + 1)
    for branch in branches:
        schedules.deepcache_cut(blocks, branch)
    with pytest.raises(SearchError, match=f"give one of 0 to {last}"):
        schedules.deepcache_cut(blocks, last + 1)


@pytest.mark.parametrize(("keep", "calls"), [(0.5, 10), (0.3, 6), (0.26, 5), (1.0, 20)])
def test_fewer_steps_makes_as_many_calls_as_keep_pays_for(
    pipelines: Callable[[str], Path], keep: float, calls: int
) -> None:
    opened = open_pipeline(pipelines("shapes-dit"), weights=False)
    found = search(opened, "fewer-steps", Options(steps=20, keep=keep))
    assert found.steps == calls
    assert keep_of(found) == pytest.approx(calls / 20)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("magic", Options(), "unknown method 'magic'; choose one of carve, dip-go"),
        ("deepcache", Options(steps=4, interval=0), "the DeepCache interval is 0; give 1 or more"),
        (
            "deepcache",
            Options(granularity=Granularity.LAYER),
            "cannot use --granularity layer; choose branch",
        ),
        ("fewer-steps", Options(steps=4, keep=0.1), "--keep 0.1 of 4 calls is less than one call"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    pipelines: Callable[[str], Path], method: str, options: Options, message: str
) -> None:
    opened = open_pipeline(pipelines("three-levels"), weights=False)
    with pytest.raises(SearchError, match=message):
        search(opened, method, options)


def test_random_reuse_goes_by_the_cost_it_is_given(pipelines: Callable[[str], Path]) -> None:
    """A cost of which the blocks of the way up have nine tenths, whatever their MACs."""
    opened = open_pipeline(pipelines("three-levels"), weights=False)
    whole = search(opened, "full", Options(steps=12))
    blocks = whole.topology.blocks
    up = np.array([name.startswith("up_blocks") for name in blocks])
    price = np.where(up, 0.9 / up.sum(), 0.1 / (~up).sum())

    def cost(subnet: SubNet) -> float:
        runs = np.array(subnet.actions) == Action.RUN
        return float((runs * price).sum() / subnet.full_calls)

    found = schedules.random_reuse(whole, keep=0.5, seed=3, cost=cost)
    assert abs(cost(found) - 0.5) <= schedules.KEEP_TOLERANCE
    assert abs(keep_of(found) - 0.5) > schedules.KEEP_TOLERANCE
