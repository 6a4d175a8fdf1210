"""The refinement of coefficients and of the timesteps given to the denoiser."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from search.fitting.placed import Placed, assess
from search.fitting.refine import Schedule, refine
from search.fitting.rows import Calls, run_chain
from tests.search.fitting.toy import linear_runs

SCHEDULE = Schedule(6, batch=8)


def test_it_comes_closer_than_least_squares() -> None:
    fitted, held_out = linear_runs(seed=0, pictures=8), linear_runs(seed=1)
    start = assess(fitted, held_out, [0, 1])
    found = refine(fitted, held_out, start, SCHEDULE)
    assert found.error < 0.9 * start.error
    assert _error(found, seed=2) < 0.9 * _error(start, seed=2), "on runs it has never seen as well"


def test_it_needs_no_gradient() -> None:
    """Large denoisers must not keep tensors for a way back."""
    runs = linear_runs()

    def predictor(sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        assert not torch.is_grad_enabled()
        return runs.predictor(sample, timestep)

    watched: Any = replace(runs, predictor=predictor)
    start = assess(runs, runs, [0, 3])
    assert refine(watched, watched, start, SCHEDULE).error < start.error


def test_it_tells_each_iteration_and_ends_where_nothing_is_gained() -> None:
    runs = linear_runs()
    seen: list[tuple[int, float]] = []
    refine(
        runs,
        runs,
        assess(runs, runs, [0]),
        Schedule(50, batch=4),
        progress=lambda *told: seen.append(told),
    )
    assert [iteration for iteration, _ in seen] == list(range(1, len(seen) + 1))
    assert len(seen) < 50
    errors = [error for _, error in seen]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0]


def test_rows_read_predictions_that_least_squares_left_out() -> None:
    runs = linear_runs(steps=12)
    start = assess(runs, runs, [0, 2, 4, 6, 8])
    found = refine(runs, runs, replace(start, error=1.0), SCHEDULE)
    assert list(map(len, start.rows)) == [2, 3, 4, 4, 4]
    assert list(map(len, found.rows)) == [2, 3, 4, 5, 6]


def test_a_start_that_is_not_finite_is_left_alone() -> None:
    runs = linear_runs()
    start = assess(runs, runs, [0, 3])
    rows = (start.rows[0] * math.inf, start.rows[1])
    wild = replace(start, rows=rows, error=math.inf)
    assert refine(runs, runs, wild, SCHEDULE) is wild


def test_it_repairs_rows_that_were_spoiled() -> None:
    runs = linear_runs(pictures=8)
    start = assess(runs, runs, [0, 2.5, 5])
    rows = (start.rows[0] * 1.02, *start.rows[1:])
    spoiled = replace(start, rows=rows, error=0.02)
    found = refine(runs, runs, spoiled, SCHEDULE)
    assert _error(found) < 0.5 * _error(spoiled)


def test_the_first_call_stays_and_none_leaves_the_trajectory() -> None:
    runs = linear_runs()
    start = assess(runs, runs, [0, 1])
    found = refine(runs, runs, start, SCHEDULE)
    assert found.positions[0] == 0
    assert found.positions[1] != 1
    assert found.positions[1] <= runs.last


def test_a_first_call_that_begins_later_stays_there() -> None:
    runs = linear_runs()
    begun_later = replace(assess(runs, runs, [0, 1]), positions=(0.8, 2.0), error=1.0)
    found = refine(runs, runs, begun_later, SCHEDULE)
    assert found.positions[0] == pytest.approx(0.8)
    assert found.positions[1] != 2


def test_a_prediction_of_zeros_is_no_direction() -> None:
    runs = linear_runs()
    silent: Any = lambda sample, _timestep: torch.zeros_like(sample)
    zeros = replace(runs, predictor=silent)
    start = assess(runs, runs, [0, 3])
    assert refine(zeros, zeros, start, SCHEDULE).error < math.inf


def test_a_single_call_has_a_row_to_refine() -> None:
    runs = linear_runs()
    start = assess(runs, runs, [0])
    assert refine(runs, runs, start, SCHEDULE).error < start.error


def test_what_is_exact_stays_as_it_is() -> None:
    runs = linear_runs(steps=3)
    start = assess(runs, runs, [0, 1, 2])
    assert refine(runs, runs, start, SCHEDULE) is start


def _error(placed: Placed, seed: int = 0) -> float:
    runs = linear_runs(seed=seed, pictures=8)
    calls = Calls.at([torch.tensor(position) for position in placed.positions])
    with torch.no_grad():
        return float(runs.error(run_chain(runs, calls, placed.rows)).mean())
