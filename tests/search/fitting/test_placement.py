"""The dynamic programme against trying everything out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from search.fitting.placement import LocalErrors, measure_local_errors, measure_propagation, place
from tests.search.fitting.toy import linear_runs


def total(local: LocalErrors, propagation: np.ndarray, calls: tuple[int, ...]) -> float:
    """The modelled error of calls at grid points, added up by hand."""
    number = {tuple(state): i for i, state in enumerate(local.states.tolist())}
    padded = [0, 0, *calls]
    ends = [*calls[1:], len(local.positions)]
    return sum(
        local.error[number[tuple(padded[i : i + 3])], end] * propagation[end]
        for i, end in enumerate(ends)
    )


@pytest.mark.parametrize("powers", [0.0, 1.0])
def test_no_choice_is_better(powers: float) -> None:
    runs = linear_runs(steps=7)
    local = measure_local_errors(runs)
    propagation = np.linspace(3, 1, 8) ** powers
    for count, found in enumerate(place(local, propagation, 5), start=1):
        choices = [(0, *rest) for rest in itertools.combinations(range(1, 7), count - 1)]
        best = min(total(local, propagation, calls) for calls in choices)
        assert total(local, propagation, tuple(found)) == pytest.approx(best)


def test_each_choice_has_so_many_calls_from_the_first_on() -> None:
    runs = linear_runs(steps=6)
    found = place(measure_local_errors(runs), np.ones(7), 6)
    assert [len(calls) for calls in found] == [1, 2, 3, 4, 5, 6]
    assert all(calls[0] == 0 and calls == sorted(set(calls)) for calls in found)


def test_a_row_that_can_be_exact_has_no_local_error() -> None:
    local = measure_local_errors(linear_runs())
    # Euler's step follows from the latents and the prediction at hand.
    following = [local.error[i, state[2] + 1] for i, state in enumerate(local.states)]
    assert max(following) < 1e-3 < np.max(local.error[np.isfinite(local.error)])


def test_long_samplers_are_thinned_out() -> None:
    assert len(measure_local_errors(linear_runs(steps=80, pictures=2)).positions) == 50


def test_a_sampler_of_one_call_has_one_place_for_it() -> None:
    runs = linear_runs(steps=1)
    local = measure_local_errors(runs)
    assert place(local, measure_propagation(runs, local), 1) == [[0]]


def test_errors_of_a_contraction_shrink() -> None:
    runs = linear_runs()
    propagation = measure_propagation(runs, measure_local_errors(runs))
    assert propagation.shape == (runs.last + 2,)
    assert propagation[-1] == 1
    assert np.all(propagation[1:-1] < 1)
