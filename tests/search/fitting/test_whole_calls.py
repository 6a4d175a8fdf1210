"""Where whole calls begin, and how the refinements share the iterations."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch

from search.fitting import whole_calls
from search.fitting.effort import Effort
from search.fitting.placed import Placed, assess
from search.fitting.whole_calls import Refinement, search_calls, spaced
from tests.search.fitting.toy import linear_runs

EFFORT = Effort(fitted_on=4, held_out=4)


def placed(name: float, error: float) -> Placed:
    """Two calls that are told apart by their second position."""
    return Placed((0.0, name), (torch.ones(2), torch.ones(3)), error)


@pytest.fixture
def refinement() -> Refinement:
    return Refinement(linear_runs(seed=0), linear_runs(seed=1), EFFORT, 8, 0, lambda _i, _e: None)


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, int]]:
    """Stands in for the refinement: what began there, for how many iterations, each halving the error."""
    seen = []

    def stage(*args: Any, **_: Any) -> Placed:
        start: Placed = args[2]
        schedule = args[3]
        seen.append((start.positions[1], schedule.iterations))
        return replace(start, error=start.error / 2)

    monkeypatch.setattr(whole_calls, "refine", stage)
    return seen


def test_both_plausible_starts_are_tried_and_the_better_goes_on(
    refinement: Refinement, stages: list[tuple[float, int]]
) -> None:
    found = refinement.best(placed(1.0, 0.3), placed(2.0, 0.2))
    assert stages == [(1.0, 2), (2.0, 2), (2.0, 4)]
    assert found.error == pytest.approx(0.05)
    assert refinement.done == refinement.iterations


def test_a_start_that_is_far_behind_is_not_tried(
    refinement: Refinement, stages: list[tuple[float, int]]
) -> None:
    refinement.best(placed(1.0, 0.5), placed(2.0, 0.2))
    assert stages == [(2.0, 8)]


@pytest.mark.parametrize("error", [0.0, 10.0])
def test_what_comes_out_is_never_behind_a_start(refinement: Refinement, error: float) -> None:
    runs = refinement.held_out
    start = assess(refinement.fitted_on, runs, [0, 4])
    plain = replace(start, error=error * start.error)
    found = search_calls([[0, 1], [0, 4]], plain, refinement)
    assert found.error <= min(start.error, plain.error)


def test_what_counts_is_the_error_of_held_out_pictures(refinement: Refinement) -> None:
    """Rows fitted to one picture are far better on that one."""
    one = linear_runs(pictures=1)
    found = search_calls([[0, 4]], None, replace(refinement, fitted_on=one))
    calls = assess(one, refinement.held_out, found.positions)
    assert found.error <= calls.error
    assert found.error > 1.2 * assess(one, one, found.positions).error


def test_even_calls_are_those_of_a_scheduler_with_fewer_steps() -> None:
    assert spaced(7, 5, 1.0) == pytest.approx([0, 1.6, 3.2, 4.8, 6.4])
    assert spaced(7, 8, 1.0) == pytest.approx(range(8))
    assert spaced(0, 1, 1.0) == [0]


@pytest.mark.parametrize("count", range(1, 12))
def test_spaced_calls_rise_and_stay_within_the_trajectory(count: int) -> None:
    places = spaced(7, count, 0.8)
    assert places[0] == 0
    assert places[-1] <= 7
    assert all(a < b for a, b in itertools.pairwise(places))
