"""Intervals and what can be told apart, on errors with known answers."""

from __future__ import annotations

import numpy as np
import pytest

from search.frontier.distance import Distance, Statistic

RANDOM = np.random.default_rng(3)
PICTURES = 64


def made(values: np.ndarray) -> Distance:
    return Distance(tuple(map(float, values)))


def test_values_are_those_of_all_pictures() -> None:
    found = Distance((0.1, 0.2, 0.9))
    assert found.value(Statistic.MEAN) == pytest.approx(0.4)
    assert found.value(Statistic.MEDIAN) == pytest.approx(0.2)
    assert found.largest == 0.9


def test_the_interval_of_a_mean_is_that_of_the_normal_approximation() -> None:
    values = RANDOM.normal(1, 0.1, 400)
    low, high = made(values).interval(Statistic.MEAN)
    spread = 1.96 * values.std(ddof=1) / 20
    assert low == pytest.approx(values.mean() - spread, abs=0.15 * spread)
    assert high == pytest.approx(values.mean() + spread, abs=0.15 * spread)


def test_pictures_that_are_all_alike_leave_no_doubt() -> None:
    assert Distance((0.3,) * 8).interval(Statistic.MEDIAN) == (0.3, 0.3)


@pytest.mark.parametrize("statistic", Statistic)
def test_a_small_difference_of_every_picture_is_told_apart(statistic: Statistic) -> None:
    """Pictures differ far more from each other: only as pairs do they say who is closer."""
    values = RANDOM.lognormal(0, 1, PICTURES)
    first, second = made(values), made(1.03 * values)
    (_, high), (low, _) = first.interval(statistic), second.interval(statistic)
    assert low < high, "the intervals overlap"
    assert second.is_apart(first, statistic)
    assert first.is_apart(second, statistic)


@pytest.mark.parametrize("statistic", Statistic)
def test_chance_is_not_told_apart(statistic: Statistic) -> None:
    """Of 200 pairs without a difference, about one in twenty is said to have one."""
    wrong = 0
    for _ in range(200):
        values = RANDOM.lognormal(0, 0.5, PICTURES)
        noise = RANDOM.normal(1, 0.2, (2, PICTURES))
        wrong += made(values * noise[0]).is_apart(made(values * noise[1]), statistic)
    assert wrong <= 24


def test_one_is_not_apart_from_itself() -> None:
    values = made(RANDOM.random(PICTURES))
    assert not values.is_apart(values, Statistic.MEAN)
