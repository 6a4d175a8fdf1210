"""The gradient search of coefficients and of the timesteps given to the denoiser."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from search.fitting.descent import Schedule
from search.fitting.placed import Placed
from search.fitting.refine_coefficients import refine_coefficients
from search.fitting.refine_positions import assess
from search.fitting.rows import Calls, run_chain
from tests.search.fitting.toy import linear_runs

SCHEDULE = Schedule(20, every=5, batch=8)


def test_it_comes_closer_than_least_squares() -> None:
    fitted, held_out = linear_runs(seed=0, pictures=8), linear_runs(seed=1)
    start = assess(fitted, held_out, [0, 1])
    found = refine_coefficients(fitted, held_out, start, SCHEDULE)
    assert found.error < start.error
    assert _error(found, seed=2) < 0.95 * _error(start, seed=2), "on runs it has never seen as well"


def test_it_repairs_rows_that_were_spoiled() -> None:
    runs = linear_runs(pictures=8)
    start = assess(runs, runs, [0, 2.5, 5])
    rows = (start.rows[0] * 1.02, *start.rows[1:])
    spoiled = replace(start, rows=rows, error=0.02)
    found = refine_coefficients(runs, runs, spoiled, SCHEDULE)
    assert _error(found) < 0.5 * _error(spoiled)


def test_the_first_call_stays_and_none_leaves_the_trajectory() -> None:
    runs = linear_runs()
    start = assess(runs, runs, [0, 1])
    found = refine_coefficients(runs, runs, start, SCHEDULE)
    assert found.positions[0] == 0
    assert found.positions[1] != 1
    assert found.positions[1] <= runs.last


def test_a_first_call_that_begins_later_stays_there() -> None:
    runs = linear_runs()
    begun_later = replace(assess(runs, runs, [0, 1]), positions=(0.8, 2.0), error=1.0)
    found = refine_coefficients(runs, runs, begun_later, SCHEDULE)
    assert found.positions[0] == pytest.approx(0.8)
    assert found.positions[1] != 2


def test_a_prediction_of_zeros_is_no_direction() -> None:
    runs = linear_runs()
    silent: Any = lambda sample, _timestep: torch.zeros_like(sample)
    zeros = replace(runs, predictor=silent)
    start = assess(runs, runs, [0, 3])
    assert refine_coefficients(zeros, zeros, start, SCHEDULE).error < math.inf


def test_a_single_call_has_a_row_to_refine() -> None:
    runs = linear_runs()
    start = assess(runs, runs, [0])
    assert refine_coefficients(runs, runs, start, SCHEDULE).error < start.error


def test_what_is_exact_stays_as_it_is() -> None:
    runs = linear_runs(steps=3)
    start = assess(runs, runs, [0, 1, 2])
    assert refine_coefficients(runs, runs, start, SCHEDULE) is start


def _error(placed: Placed, seed: int = 0) -> float:
    runs = linear_runs(seed=seed, pictures=8)
    calls = Calls.at([torch.tensor(position) for position in placed.positions])
    with torch.no_grad():
        return float(runs.error(run_chain(runs, calls, placed.rows)).mean())
