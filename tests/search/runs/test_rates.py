"""Learning rates."""

from __future__ import annotations

import itertools

import pytest

from search.runs.rates import warmup_cosine


def test_the_rate_rises_and_falls_to_nothing() -> None:
    rates = [warmup_cosine(0.1, 10, iteration, 1000) for iteration in range(1000)]
    assert rates[0] == pytest.approx(0.1 / 11)
    assert all(a < b for a, b in itertools.pairwise(rates[:11]))
    assert max(rates) == rates[10] == pytest.approx(0.1)
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
    assert rates[-1] < 1e-6


def test_a_run_that_is_shorter_than_the_warm_up_ends_at_the_highest() -> None:
    assert [warmup_cosine(1.0, 5, i, 2) for i in range(2)] == [0.5, 1.0]
    assert warmup_cosine(1.0, 5, 0, 1) == 1.0
