"""Goals and how much work is done for them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from engines.errors import EngineError
from engines.optimize.choose import cheapest
from engines.optimize.settings import KEEPS, SEARCHES, TIERS, Goal, OptimizeSettings


def test_a_speedup_is_a_keep() -> None:
    assert Goal(speedup=4).keeps == Goal(keep=0.25).keeps == (0.25,)
    assert Goal(min_psnr=40).keeps == KEEPS


@pytest.mark.parametrize("given", [{}, {"keep": 0.5, "speedup": 2.0}])
def test_no_goal_and_two_goals_are_refused(given: dict[str, float]) -> None:
    with pytest.raises(EngineError, match="give one goal"):
        Goal(**given)


@pytest.mark.parametrize("least", [*KEEPS, 2.0])
def test_the_cheapest_that_is_enough_is_found_with_few_searches(least: float) -> None:
    tried: list[float] = []

    def is_enough(keep: float) -> bool:
        tried.append(keep)
        return keep >= least

    assert cheapest(KEEPS, is_enough) == min(least, KEEPS[-1])
    assert len(tried) <= 3


def test_more_quality_is_more_work_and_carve_is_the_default() -> None:
    assert SEARCHES[0] == "carve"
    for less, more in pairwise(TIERS):
        assert less.pictures < more.pictures
        assert less.iterations < more.iterations
        assert less.held_out < more.held_out
        assert less.rounds < more.rounds
        assert less.probed < more.probed
        assert less.quantises <= more.quantises


def test_settings_are_json_that_tells_them_apart() -> None:
    one, other = (OptimizeSettings(Path("p"), goal=Goal(keep=k)).to_json() for k in (0.3, 0.4))
    assert one != other
    assert {k for k in one if one[k] != other[k]} == {"goal"}


def test_the_searches_are_the_methods_of_a_given_cost_that_the_frontier_draws() -> None:
    from search.frontier.registry import NAMES
    from search.methods.registry import METHODS

    known = [each.name for each in METHODS if "keep" in each.options and each.name in NAMES]
    assert list(SEARCHES) == known
