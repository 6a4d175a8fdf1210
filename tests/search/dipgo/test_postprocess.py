"""From scores to SubNets on toys."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from search.core.actions import Action
from search.core.errors import SearchError
from search.core.subnet import SubNet
from search.core.table import keep_of
from search.dipgo.postprocess import Scores, subnet_at, subnet_of
from search.supernet.shares import reuse_unread
from tests.toys import hourglass, subnet

CHOICES = (Action.RUN, Action.REUSE)
FULL = subnet(hourglass(), *["RRR"] * 40)


def scores(seed: int = 0) -> Scores:
    run = np.random.default_rng(seed).uniform(size=(40, 3))
    return Scores(CHOICES, np.stack([run, 1 - run], -1))


def at(keep: float, given: Scores, *, cascade: bool = True) -> SubNet:
    return subnet_at(FULL, given, keep, tolerance=0.0125, cascade=cascade)


@pytest.mark.parametrize("cascade", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_the_asked_keep_is_met_from_below(seed: int, cascade: bool) -> None:
    for keep in (0.1, 0.2, 0.33, 0.5, 0.8):
        found = keep_of(at(keep, scores(seed), cascade=cascade))
        assert keep - 0.0125 < found <= keep


def test_cells_of_higher_score_run() -> None:
    given = scores()
    found = at(0.5, given, cascade=False)
    runs = np.array([[a is Action.RUN for a in row] for row in found.actions])[1:]
    lowest_running = np.sort(given.values[1:, :, 0][runs])[: runs.sum() // 2].min()
    assert given.values[1:, :, 0][runs].mean() > given.values[1:, :, 0][~runs].mean()
    assert lowest_running > given.values[1:, :, 0].min()


def test_step_0_runs_whatever_its_scores_are() -> None:
    given = scores()
    given.values[0] = [0.0, 1.0]
    for keep in (0.05, 0.5):
        assert set(at(keep, given).actions[0]) == {Action.RUN}
    assert set(subnet_of(FULL, given).actions[0]) == {Action.RUN}


def test_equal_scores_are_taken_one_by_one() -> None:
    given = Scores(CHOICES, np.full((40, 3, 2), 0.5))
    assert 0.4 - 0.0125 < keep_of(at(0.4, given)) <= 0.4


def test_keeping_everything_is_the_full_subnet() -> None:
    assert at(1.0, scores()).actions == FULL.actions


def test_blocks_nobody_reads_are_reused_when_asked() -> None:
    for keep in (0.2, 0.5):
        found = at(keep, scores())
        assert reuse_unread(found).actions == found.actions
    loose = at(0.5, scores(), cascade=False)
    assert reuse_unread(loose).actions != loose.actions


def test_the_best_other_choice_is_taken() -> None:
    run = scores().values[..., :1]
    delta = np.where(np.arange(3) == 2, 0.9, 0.1)[None, :, None] * np.ones((40, 1, 1))
    given = Scores((*CHOICES, Action.DELTA), np.concatenate([run, 0.5 + 0 * run, delta], -1))
    found = subnet_at(
        FULL, given, 0.5, tolerance=0.0125, cascade=False, cost=lambda s: share_of(s, Action.RUN)
    )
    last = {row[2] for row in found.actions}
    assert last == {Action.RUN, Action.DELTA}
    assert {row[0] for row in found.actions} == {Action.RUN, Action.REUSE}


def share_of(table: SubNet, action: Action) -> float:
    """A cost other than MACs: how many cells have an action."""
    cells = [a is action for row in table.actions for a in row]
    return sum(cells) / len(cells)


def test_another_cost_decides_when_it_is_given() -> None:
    found = subnet_at(
        FULL,
        scores(),
        0.5,
        tolerance=0.0125,
        cascade=False,
        cost=lambda s: share_of(s, Action.RUN),
    )
    assert 0.4875 < share_of(found, Action.RUN) <= 0.5


def test_less_than_step_0_is_refused() -> None:
    with pytest.raises(SearchError, match=r"a keep of 0.02 cannot be reached: 0.0250 remains"):
        at(0.02, scores())


def test_single_cells_too_coarse_for_the_tolerance_stay_below_the_keep() -> None:
    short = dataclasses.replace(subnet(hourglass(), *["RRR"] * 4))
    given = Scores(CHOICES, scores().values[:4])
    found = subnet_at(short, given, 0.6, tolerance=0.0125, cascade=True)
    assert keep_of(found) <= 0.6
