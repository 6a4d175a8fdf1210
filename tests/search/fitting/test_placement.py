"""The dynamic programme against trying everything out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from search.fitting.placement import Misses, measure_growth, measure_misses, place
from tests.search.fitting.toy import linear_runs


def total(misses: Misses, growth: np.ndarray, calls: tuple[int, ...]) -> float:
    """The modelled error of calls at grid points, added up by hand."""
    number = {tuple(state): i for i, state in enumerate(misses.states.tolist())}
    padded = [0, 0, *calls]
    ends = [*calls[1:], len(misses.positions)]
    return sum(
        misses.miss[number[tuple(padded[i : i + 3])], end] * growth[end]
        for i, end in enumerate(ends)
    )


@pytest.mark.parametrize("powers", [0.0, 1.0])
def test_no_choice_is_better(powers: float) -> None:
    runs = linear_runs(steps=7)
    misses = measure_misses(runs)
    growth = np.linspace(3, 1, 8) ** powers
    for count, found in enumerate(place(misses, growth, 5), start=1):
        choices = [(0, *rest) for rest in itertools.combinations(range(1, 7), count - 1)]
        best = min(total(misses, growth, calls) for calls in choices)
        assert total(misses, growth, tuple(found)) == pytest.approx(best)


def test_each_choice_has_so_many_calls_from_the_first_on() -> None:
    runs = linear_runs(steps=6)
    found = place(measure_misses(runs), np.ones(7), 6)
    assert [len(calls) for calls in found] == [1, 2, 3, 4, 5, 6]
    assert all(calls[0] == 0 and calls == sorted(set(calls)) for calls in found)


def test_a_row_that_can_be_exact_misses_nothing() -> None:
    misses = measure_misses(linear_runs())
    # Euler's step follows from the latents and the prediction at hand.
    following = [misses.miss[i, state[2] + 1] for i, state in enumerate(misses.states)]
    assert max(following) < 1e-3 < np.max(misses.miss[np.isfinite(misses.miss)])


def test_long_samplers_are_thinned_out() -> None:
    assert len(measure_misses(linear_runs(steps=80, pictures=2)).positions) == 50


def test_a_sampler_of_one_call_has_one_place_for_it() -> None:
    runs = linear_runs(steps=1)
    misses = measure_misses(runs)
    assert place(misses, measure_growth(runs, misses), 1) == [[0]]


def test_errors_of_a_contraction_shrink() -> None:
    runs = linear_runs()
    growth = measure_growth(runs, measure_misses(runs))
    assert growth.shape == (runs.last + 2,)
    assert growth[-1] == 1
    assert np.all(growth[1:-1] < 1)
