"""Who wins at each keep, on made-up points."""

from __future__ import annotations

import pytest

from search.frontier.plot import pareto
from search.frontier.points import Point, compare
from search.frontier.quality import Quality
from search.frontier.series import CARVE, DEEPCACHE, DIP_GO, FEWER_STEPS, HOLD, Series
from tests.toys import chain, subnet

TOY = subnet(chain(), "RRR")


def point(
    method: Series, cost: float, error: float, *, keep: float | None = None, fitted: bool = False
) -> Point:
    quality = Quality(error, error, error, 30.0, 0.9)
    return Point(method, f"keep {keep}", keep, fitted, cost, 3, quality, TOY)


OURS = point(CARVE, 0.3, 0.02, keep=0.3, fitted=True)
CHEAP = point(DEEPCACHE, 0.25, 0.08)
EXACT = point(FEWER_STEPS, 0.3, 0.05, keep=0.3)
DEAR = point(DEEPCACHE, 0.31, 0.01)
FITTED = point(HOLD, 0.3, 0.04, keep=0.3, fitted=True)
PAPER = point(DIP_GO, 0.29, 0.001, keep=0.3)
FITTED_PAPER = point(DIP_GO, 0.29, 0.0005, keep=0.3, fitted=True)
ALL = [OURS, CHEAP, EXACT, DEAR, FITTED, PAPER, FITTED_PAPER]


def test_the_best_baseline_costs_no_more() -> None:
    found = compare(ALL, 0.3)
    assert found.baseline is EXACT
    assert compare(ALL, 0.31).baseline is DEAR
    assert compare(ALL, 0.26).baseline is CHEAP


def test_fitted_and_plain_baselines_are_told_apart() -> None:
    assert compare(ALL, 0.3).fitted_baseline is FITTED


def test_the_paper_is_no_baseline_but_stands_beside_them() -> None:
    found = compare(ALL, 0.3)
    assert (found.dip_go, found.fitted_dip_go) == (PAPER, FITTED_PAPER)


def test_ours_is_the_one_made_for_this_keep() -> None:
    assert compare(ALL, 0.3).ours is OURS
    assert compare(ALL, 0.5).ours is None, "a cheaper one was made for another keep"


def test_ratios_are_our_error_over_the_other() -> None:
    found = compare(ALL, 0.3)
    assert found.ratio(EXACT) == pytest.approx(0.4)
    assert found.ratio(PAPER) == pytest.approx(20)
    assert found.ratio(OURS) is None
    assert compare([CHEAP], 0.3).ratio(CHEAP) is None, "there is nothing of ours"
    assert found.ratio(point(HOLD, 0.3, 0.0)) is None, "nothing is so many times zero"


def test_contenders_are_those_there_are() -> None:
    assert list(compare([CHEAP, FITTED], 0.3).contenders) == [
        "best plain baseline",
        "best fitted baseline",
    ]
    assert compare([DEAR], 0.3).contenders == {}


def test_the_front_leaves_out_what_a_cheaper_one_beats() -> None:
    worse = point(DEEPCACHE, 0.28, 0.09)
    assert pareto([DEAR, worse, CHEAP]) == [CHEAP, DEAR]


def test_files_tell_plain_from_fitted() -> None:
    assert EXACT.file == "subnets/fewer-steps-keep-0.3.json"
    assert FITTED.file == "subnets/hold-keep-0.3-fitted.json"
