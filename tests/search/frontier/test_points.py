"""Who wins at each keep, on made-up points."""

from __future__ import annotations

import numpy as np
import pytest

from search.core.subnet import SubNet
from search.frontier.distance import Baseline, Distance, Statistic
from search.frontier.plot import pareto
from search.frontier.points import Point, Verdict, compare
from search.frontier.quality import Quality
from search.frontier.rivals.guidance import GUIDANCE_INTERVAL
from search.frontier.rivals.holding import HOLD
from search.frontier.rivals.layers import DEEPCACHE
from search.frontier.rivals.searches import CARVE, DIP_GO
from search.frontier.rivals.solvers import FEWER_STEPS
from search.frontier.series import Series
from tests.toys import chain, subnet

SPREAD = np.random.default_rng(0).lognormal(0, 0.5, 48)
SPREAD /= SPREAD.mean()
OTHER = np.random.default_rng(1).lognormal(0, 0.5, 48)
OTHER /= OTHER.mean()


def toy() -> SubNet:
    return subnet(chain(), "RRR")


def point(
    method: Series,
    cost: float,
    full: float,
    *,
    fine: float | None = None,
    fitted: bool = False,
    spread: np.ndarray = SPREAD,
    made: SubNet | None = None,
) -> Point:
    distances = {
        Baseline.FULL: Distance(tuple(full * spread)),
        Baseline.FINE: Distance(tuple((full if fine is None else fine) * spread)),
    }
    quality = Quality(distances, 30.0, 0.9)
    return Point(method, f"keep {cost}", cost, fitted, cost, 3, quality, made or toy())


OURS = point(CARVE, 0.3, 0.02, fine=0.05, fitted=True)
CHEAP = point(DEEPCACHE, 0.25, 0.08)
EXACT = point(FEWER_STEPS, 0.3, 0.05, fine=0.04)
DEAR = point(DEEPCACHE, 0.31, 0.01)
FITTED = point(HOLD, 0.3, 0.045, fitted=True)
PAPER = point(DIP_GO, 0.29, 0.0205, fine=0.09, spread=OTHER)
ALL = [OURS, CHEAP, EXACT, DEAR, FITTED, PAPER]


def verdict(points: list[Point], target: Baseline) -> Verdict:
    found = compare(points, 0.3).verdicts
    [each] = [v for v in found if (v.target, v.statistic) == (target, Statistic.MEAN)]
    return each


def test_nothing_in_the_ranking_costs_more_than_the_keep() -> None:
    assert DEAR not in compare(ALL, 0.3).ranking
    assert compare(ALL, 0.26).ranking == (CHEAP,)
    assert CHEAP not in compare(ALL, 0.31).ranking, "a dearer one of the series is better"


def test_the_ranking_is_by_the_distance_to_the_fine_reference() -> None:
    assert compare(ALL, 0.3).ranking == (EXACT, FITTED, OURS, CHEAP, PAPER)


def test_each_target_has_a_winner() -> None:
    assert verdict(ALL, Baseline.FULL).winner is OURS
    assert verdict(ALL, Baseline.FINE).winner is EXACT


def test_what_cannot_be_told_from_the_winner_is_named() -> None:
    found = verdict(ALL, Baseline.FULL)
    assert found.tied == (PAPER,), "a little worse by the mean, but on other pictures"
    assert found.mark(OURS) == "*"
    assert found.mark(PAPER) == "="
    assert found.mark(EXACT) == ""
    assert found.sentence() == (
        "mean distance to the full sampler: carve keep 0.3 wins, but cannot be told apart from dip-go keep 0.29"
    )
    alone = verdict([OURS, EXACT], Baseline.FULL)
    assert alone.tied == ()
    assert alone.sentence().endswith("carve keep 0.3 wins, beyond chance")


def test_equal_points_are_not_told_apart() -> None:
    equal = point(HOLD, 0.3, 0.04)
    assert verdict([EXACT, equal], Baseline.FINE).tied == (equal,)


def test_a_fit_without_effect_is_not_ranked_twice() -> None:
    plain = point(HOLD, 0.3, 0.04)
    same = point(HOLD, 0.3, 0.04, fitted=True, made=plain.subnet)
    assert compare([plain, same], 0.3).ranking == (plain,)


def test_ratios_are_our_error_over_the_other() -> None:
    found = compare(ALL, 0.3)
    assert found.ratio(EXACT, Baseline.FULL) == pytest.approx(0.4)
    assert found.ratio(EXACT, Baseline.FINE) == pytest.approx(1.25)
    assert found.ratio(OURS, Baseline.FULL) is None
    assert compare([CHEAP], 0.3).ratio(CHEAP, Baseline.FULL) is None, "there is nothing of ours"
    assert found.ratio(point(HOLD, 0.3, 0.0), Baseline.FULL) is None, (
        "nothing is so many times zero"
    )


def test_a_keep_that_nothing_fits_has_no_winner() -> None:
    found = compare([DEAR], 0.3)
    assert found.ranking == found.verdicts == ()
    assert found.to_json() == {"keep": 0.3, "ranking": [], "verdicts": []}


def test_the_front_leaves_out_what_a_cheaper_one_beats() -> None:
    worse = point(DEEPCACHE, 0.28, 0.09)
    assert pareto([DEAR, worse, CHEAP], Baseline.FULL) == [CHEAP, DEAR]


def test_files_tell_plain_from_fitted() -> None:
    assert EXACT.file == "subnets/fewer-steps-keep-0.3.json"
    assert FITTED.file == "subnets/hold-keep-0.3-fitted.json"


def test_what_no_subnet_says_has_no_file() -> None:
    made = Point(GUIDANCE_INTERVAL, "keep 0.3", 0.3, False, 0.3, 3, EXACT.quality, None)
    assert made.file is None
    assert made.to_json()["subnet"] is None
