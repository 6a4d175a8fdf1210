"""The gradient search of the call times."""

from __future__ import annotations

import torch

from search.fitting.descent import Schedule
from search.fitting.refine_positions import assess, positions_of, refine_positions
from tests.search.fitting.toy import linear_runs


def test_it_improves_a_bad_start_and_never_spoils_one() -> None:
    fitted, held_out = linear_runs(seed=0), linear_runs(seed=1)
    start = assess(fitted, held_out, [0, 0.5, 1.0])
    found = refine_positions(fitted, held_out, start, Schedule(20, every=5, batch=4))
    assert found.error < 0.9 * start.error
    again = refine_positions(fitted, held_out, found, Schedule(1, every=1, batch=4))
    assert again.error <= found.error


def test_it_reports_each_iteration() -> None:
    runs = linear_runs()
    seen: list[int] = []
    start = assess(runs, runs, [0, 3])
    refine_positions(
        runs, runs, start, Schedule(4, every=2, batch=4), progress=lambda i, _: seen.append(i)
    )
    assert seen == [1, 2, 3, 4]


def test_one_call_has_nothing_to_move() -> None:
    runs = linear_runs()
    start = assess(runs, runs, [0])
    assert refine_positions(runs, runs, start, Schedule(3, every=1, batch=4)) is start


def test_positions_increase_from_the_first_to_at_most_the_last() -> None:
    places = [float(p) for p in positions_of(torch.randn(6), 49)]
    assert places[0] == 0
    assert places == sorted(places)
    assert places[-1] <= 49
