"""How much work a search does."""

from __future__ import annotations

import pytest

from search.fitting.effort import ITERATIONS, WORTH, Effort

COUNTS = range(1, 60)


def test_few_calls_have_all_iterations_and_many_calls_fewer() -> None:
    found = [Effort().iterations_of(count) for count in COUNTS]
    assert found == sorted(found, reverse=True)
    assert (found[0], found[-1]) == (ITERATIONS, 1)


def test_a_given_number_of_iterations_is_made() -> None:
    assert {Effort(iterations=3).iterations_of(count) for count in COUNTS} == {3}


@pytest.mark.parametrize("count", [10, 25])
def test_refinements_are_worth_as_much_as_one_iteration_allows(count: int) -> None:
    effort = Effort()
    calls = effort.iterations_of(count) * effort.calls_of_iteration(count)
    assert abs(calls - WORTH) <= 0.5 * effort.calls_of_iteration(count)


def test_more_pictures_calls_and_choices_take_more() -> None:
    def calls(pictures: int, keep: float, *, thin: bool = False, halves: bool = False) -> float:
        return Effort.of(pictures, None).denoiser_calls(50, keep, thin=thin, halves=halves)

    assert calls(192, 0.2) > calls(96, 0.2)
    assert calls(96, 0.9, thin=True) > calls(96, 0.1, thin=True)
    assert calls(96, 0.1, halves=True) > calls(96, 0.1)
