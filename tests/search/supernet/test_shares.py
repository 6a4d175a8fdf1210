"""What reusing a block saves, against numbers computed by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from search.core.actions import Action
from search.core.subnet import Granularity
from search.methods.options import Options
from search.methods.whole import full
from search.model.opening import open_pipeline
from search.supernet.shares import (
    action_costs,
    cascade_shares,
    own_shares,
    read_in_step,
    reuse_unread,
)
from tests.pipelines import SD15_STAGES, stable_diffusion_15
from tests.toys import ACTIONS, chain, hourglass, subnet


def test_in_a_chain_everything_before_a_reused_block_is_saved_too() -> None:
    assert cascade_shares(chain()) == pytest.approx([100 / 301, 200 / 301, 300 / 301])
    assert own_shares(chain()) == pytest.approx([100 / 301] * 3)


def test_a_skip_connection_keeps_what_it_reads() -> None:
    assert cascade_shares(hourglass()) == pytest.approx([30 / 576, 510 / 576, 575 / 576])


def test_a_residual_saves_the_block_itself_and_nothing_before_it() -> None:
    choices = (Action.RUN, Action.REUSE, Action.DELTA)
    costs = action_costs(chain(), choices)
    assert costs[:, 0].sum() == pytest.approx(1)
    assert (costs * 600).round(6).tolist() == [[100, 0, 0], [200, 0, 100], [300, 0, 200]]


def test_a_residual_reads_its_input_and_a_reused_block_reads_nothing() -> None:
    for row, expected in (("RRd", {0, 1, 2}), ("RRc", {2}), ("RcR", {1, 2}), ("dcR", {1, 2})):
        assert read_in_step(chain(), [ACTIONS[letter] for letter in row]) == expected


def test_blocks_that_nobody_reads_are_reused_in_the_paper() -> None:
    table = subnet(hourglass(), "RRR", "RRc", "RcR", "RRd", "RRc")
    assert (
        reuse_unread(table).actions
        == subnet(hourglass(), "RRR", "ccc", "RcR", "RRd", "ccc").actions
    )


@pytest.mark.slow
def test_shares_are_those_of_stable_diffusion(
    pipelines: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The published split, attention included, in GMACs: own work, and who reads whom.

    Finer than by whole blocks: the downsampler before a level is unread too when the level is.
    """
    opened = dataclasses.replace(open_pipeline(pipelines("shapes-sd")), pipe=stable_diffusion_15())
    monkeypatch.setattr(type(opened), "fingerprint", "")
    topology = full(opened, Options(granularity=Granularity.STAGE)).topology
    saved = {
        "up_blocks.0": ("mid_block", "down_blocks.3"),
        "up_blocks.1": ("up_blocks.0", "mid_block", "down_blocks.3", "down_blocks.2"),
        "up_blocks.2": tuple(set(SD15_STAGES) - {"up_blocks.3", "up_blocks.2", "down_blocks.0"}),
        "up_blocks.3": tuple(set(SD15_STAGES) - {"up_blocks.3"}),
    }
    found = dict(zip(topology.blocks, cascade_shares(topology) * 401.64, strict=True))
    for name, macs in SD15_STAGES.items():
        downsampler = 0.944 if name in ("up_blocks.0", "up_blocks.1", "up_blocks.2") else 0
        expected = macs + sum(SD15_STAGES[other] for other in saved.get(name, ())) + downsampler
        assert found[name] == pytest.approx(expected, abs=0.1), name
