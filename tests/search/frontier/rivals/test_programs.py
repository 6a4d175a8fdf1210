"""Dynamic programs and annealing, against every choice there is."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from search.frontier.rivals.masks import anneal
from search.frontier.rivals.path_aware import cheapest_pairs, segment_costs
from search.frontier.rivals.times import cheapest_path
from search.frontier.spacing import uniform

STEPS = 7
RANDOM = np.random.default_rng(0)


def best(count: int, cost: Callable[[Sequence[int]], float]) -> list[int]:
    choices = ((0, *rest) for rest in itertools.combinations(range(1, STEPS), count - 1))
    return list(min(choices, key=cost))


@pytest.mark.parametrize("count", range(1, STEPS + 1))
def test_the_cheapest_path_is_the_cheapest_of_all(count: int) -> None:
    cost = RANDOM.random((STEPS, STEPS + 1))
    cost[np.tril_indices(STEPS)] = np.inf

    def total(steps: Sequence[int]) -> float:
        return float(sum(cost[pair] for pair in itertools.pairwise([*steps, STEPS])))

    assert cheapest_path(cost, count) == best(count, total)


def forecast_error(predictions: NDArray[np.float64], steps: Sequence[int]) -> float:
    """Each forecast made and compared one by one."""
    total = 0.0
    for number, (last, end) in enumerate(itertools.pairwise([*steps, STEPS])):
        for step in range(last + 1, end):
            forecast = predictions[last]
            if number:
                before = steps[number - 1]
                slope = (predictions[last] - predictions[before]) / (last - before)
                forecast = forecast + (step - last) * slope
            difference = np.linalg.norm(forecast - predictions[step])
            total += float(difference / np.linalg.norm(predictions[step]))
    return total


@pytest.mark.parametrize("count", range(1, STEPS + 1))
def test_dpcaches_steps_have_the_least_forecast_error_of_all(count: int) -> None:
    predictions = RANDOM.standard_normal((STEPS, 9)).cumsum(0)
    found = cheapest_pairs(segment_costs(predictions), count)
    assert found == best(count, lambda steps: forecast_error(predictions, steps))


def test_a_straight_line_is_forecast_without_error_from_two_calls() -> None:
    line = np.arange(1.0, STEPS + 1)[:, None] * np.ones(4)
    cost = segment_costs(line)
    assert cheapest_pairs(cost, 2) == [0, 1]
    assert cost[0, 1, STEPS] == pytest.approx(0, abs=1e-6)


def test_annealing_finds_the_one_right_set() -> None:
    total, wanted = 20, (0, 2, 3, 11, 19)

    def error(steps: tuple[int, ...]) -> float:
        return 0.01 + sum(abs(a - b) for a, b in zip(steps, wanted, strict=True))

    found = anneal(uniform(total, len(wanted)), total, error, tries=400, seed=0)
    assert found == wanted


def test_annealing_keeps_the_number_of_calls_and_never_returns_worse_than_its_start() -> None:
    start = uniform(12, 5)
    seen = []

    def error(steps: tuple[int, ...]) -> float:
        seen.append(steps)
        return 1.0 if steps == start else 2.0

    assert anneal(start, 12, error, tries=30, seed=1) == start
    assert all(len(steps) == 5 and steps[0] == 0 and steps[-1] < 12 for steps in seen)
    assert len(set(seen)) > 10
